import { createHash } from "node:crypto";
import { cp, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

const MODEL = process.env.MODEL ?? "../sunfish/shipped"; // relative to this folder
const NEEDED = /(json|onnx_data|(step|check)(_quantized)?\.onnx)$/; // what the page reads of a folder

/** Puts the model beside the page, and a service worker that knows all files. */
function modelAndWorker(): Plugin {
  let out = "dist";
  return {
    name: "model-and-service-worker",
    apply: "build",
    configResolved: (config) => void (out = config.build.outDir),
    async closeBundle() {
      await copyModel(join(out, "model"));
      const files = (await listed(out)).filter((file) => file !== "sw.js").sort();
      const hash = createHash("sha256");
      for (const file of files) hash.update(file).update(await readFile(join(out, file)));
      const worker = await readFile("src/sw.js", "utf8");
      const version = hash.digest("hex").slice(0, 16);
      const facts = `const FILES = ${JSON.stringify(files)};\nconst VERSION = "${version}";\n`;
      await writeFile(join(out, "sw.js"), facts + worker);
    },
  };
}

async function copyModel(to: string): Promise<void> {
  for (const file of (await listed(MODEL)).filter((name) => NEEDED.test(name)))
    await cp(join(MODEL, file), join(to, file));
}

async function listed(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile());
  return files.map((entry) => join(entry.parentPath, entry.name).slice(join(folder).length + 1));
}

export default defineConfig({
  base: "./",
  plugins: [modelAndWorker()],
  resolve: { conditions: ["onnxruntime-web-use-extern-wasm", "import", "module", "browser", "default"] },
  worker: { format: "es" },
  build: { target: "es2022", chunkSizeWarningLimit: 1000 },
  test: { testTimeout: 240_000, hookTimeout: 240_000 },
});
