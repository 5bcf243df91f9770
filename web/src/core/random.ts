/**
 * numpy's default generator to the bit: SeedSequence, PCG64 (XSL-RR) and the draws that the sampler makes.
 * Source: O'Neill 2014 (PCG); Marsaglia & Tsang 2000 (the ziggurat, 256 layers, single precision).
 */

const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const POOL = 4;

/** Return `num` words of 32 bits from a sequence of non-negative integers, as numpy's SeedSequence does. */
export function seedWords(entropy: number[], num: number): Uint32Array {
  const words = entropy.flatMap(words32);
  const hash = hasher(0x43b0d7e5, 0x931e8875);
  const pool = Array.from({ length: POOL }, (_, k) => hash(words[k] ?? 0));
  const stir = (value: number, to: number) => (pool[to] = mix(pool[to]!, hash(value)));
  for (let from = 0; from < POOL; from++)
    for (let to = 0; to < POOL; to++) if (from !== to) stir(pool[from]!, to);
  for (const word of words.slice(POOL)) for (let to = 0; to < POOL; to++) stir(word, to);
  const out = hasher(0x8b51f9dd, 0x58f38ded);
  return Uint32Array.from({ length: num }, (_, k) => out(pool[k % POOL]!));
}

function words32(value: number): number[] {
  const low = value % 2 ** 32;
  const high = Math.floor(value / 2 ** 32);
  return high ? [low, high] : [low];
}

function hasher(start: number, multiplier: number): (value: number) => number {
  let constant = start;
  return (value) => {
    const mixed = value ^ constant;
    constant = Math.imul(constant, multiplier);
    const product = Math.imul(mixed, constant);
    return (product ^ (product >>> 16)) >>> 0;
  };
}

function mix(a: number, b: number): number {
  const result = (Math.imul(0xca01f9dd, a) - Math.imul(0x4973f715, b)) | 0;
  return (result ^ (result >>> 16)) >>> 0;
}

/** numpy.random.default_rng(entropy). */
export class Generator {
  private state: bigint;
  private readonly increment: bigint;
  private half: number | null = null; // the upper 32 bits of the last draw, not used yet

  constructor(entropy: number[]) {
    const words = seedWords(entropy, 8);
    const [a, b, c, d] = [0, 2, 4, 6].map((k) => (BigInt(words[k + 1]!) << 32n) | BigInt(words[k]!));
    this.increment = ((((c! << 64n) | d!) << 1n) | 1n) & MASK_128;
    this.state = (this.increment + ((a! << 64n) | b!)) & MASK_128;
    this.step();
  }

  private step(): void {
    this.state = (this.state * MULTIPLIER + this.increment) & MASK_128;
  }

  private next64(): bigint {
    this.step();
    const value = (this.state >> 64n) ^ (this.state & MASK_64);
    const turn = this.state >> 122n;
    return ((value >> turn) | (value << (64n - turn))) & MASK_64;
  }

  next32(): number {
    if (this.half !== null) {
      const half = this.half;
      this.half = null;
      return half;
    }
    const value = this.next64();
    this.half = Number(value >> 32n);
    return Number(value & 0xffffffffn);
  }

  /** A double in [0, 1). */
  double(): number {
    return Number(this.next64() >> 11n) / 2 ** 53;
  }

  /** A float in [0, 1). */
  float(): number {
    return (this.next32() >>> 8) / 2 ** 24;
  }

  /** `num` floats in [0, 1). */
  floats(num: number): Float32Array {
    return Float32Array.from({ length: num }, () => this.float());
  }

  /** An integer in [0, below), below at most 2^32. Source: Lemire 2019. */
  integer(below: number): number {
    if (below <= 1) return 0;
    const threshold = 2 ** 32 % below;
    for (;;) {
      const product = BigInt(this.next32()) * BigInt(below);
      if (Number(product & 0xffffffffn) >= threshold) return Number(product >> 32n);
    }
  }

  /** An index, drawn by these weights. */
  choice(weights: number[]): number {
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    let sum = 0;
    const reached = weights.map((weight) => (sum += weight / total));
    const goal = this.double();
    return reached.findIndex((value) => value / sum > goal);
  }

  /** `num` floats from a standard normal. */
  normals(num: number): Float32Array {
    const out = new Float32Array(num);
    for (let k = 0; k < num; k++) out[k] = this.normal();
    return out;
  }

  private normal(): number {
    for (;;) {
      const bits = this.next32();
      const layer = bits & 0xff;
      const sign = bits & 0x100 ? -1 : 1;
      const magnitude = (bits >>> 9) & 0x7fffff;
      const x = sign * Math.fround(magnitude * WIDTHS[layer]!);
      if (magnitude < INSIDE[layer]!) return x;
      if (layer === 0) return this.tail(magnitude & 0x100 ? -1 : 1);
      const height = Math.fround(HEIGHTS[layer - 1]! - HEIGHTS[layer]!);
      const y = Math.fround(Math.fround(height * this.float()) + HEIGHTS[layer]!);
      if (y < Math.exp(-0.5 * x * x)) return x;
    }
  }

  private tail(sign: number): number {
    for (;;) {
      const x = Math.fround(Math.fround(-1 / EDGE) * Math.fround(Math.log1p(-this.float())));
      const y = -Math.fround(Math.log1p(-this.float()));
      if (Math.fround(y + y) > Math.fround(x * x)) return sign * Math.fround(Math.fround(EDGE) + x);
    }
  }
}

const EDGE = 3.6541528853610088; // where the tail begins
const BASE = 3.910757959537090045; // area of a layer, over the density at EDGE
const density = (x: number) => Math.exp(-0.5 * x * x);

const edges = new Float64Array(256);
edges[0] = BASE;
edges[255] = EDGE;
const area = BASE * density(EDGE);
for (let k = 254; k > 0; k--)
  edges[k] = Math.sqrt(-2 * Math.log(area / edges[k + 1]! + density(edges[k + 1]!)));

const WIDTHS = Float32Array.from(edges, (x) => x / 2 ** 23);
const HEIGHTS = Float32Array.from(edges, (x, k) => (k ? density(x) : 1));
const INSIDE = Uint32Array.from(edges, (x, k) => {
  const inner = k === 0 ? EDGE : k === 1 ? 0 : edges[k - 1]!;
  return Math.round((inner / x) * 2 ** 23);
});
