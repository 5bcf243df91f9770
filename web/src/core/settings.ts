/** How to sample: what is asked for, and what the folder recommends for all else. */
import { require } from "./errors";
import { SAMPLERS } from "./solvers";

export interface CheckConfig {
  epsilon: number;
  steps: number;
  restart_time: number;
  max_rounds: number | null;
}

export interface SamplerConfig {
  name: string;
  steps: number;
  eta: number;
  churn: number;
  temperature: number;
  confidence_threshold: number;
  epsilon_cutoff: number;
  check: CheckConfig | null;
  gap_check: CheckConfig | null; // where given text follows a gap; null: as `check`
}

/** What is asked for; a field left out takes what the folder recommends. */
export interface Settings {
  sampler?: string;
  steps?: number;
  temperature?: number;
  check?: boolean;
  epsilon?: number;
  redraft?: number;
}

const MAX_STEPS = 10_000;
const USUAL_CHECK: CheckConfig = { epsilon: 0.45, steps: 1, restart_time: 0.7, max_rounds: null };

/** The sampler of a walk. A sampler asked for by name keeps no token early, so it takes exactly its steps. */
export function resolve(
  settings: Settings,
  usual: SamplerConfig,
  canCheck: boolean,
  hasGaps = false,
): SamplerConfig {
  const { sampler, steps, temperature } = settings;
  const config = {
    ...usual,
    name: sampler ?? usual.name,
    steps: steps ?? usual.steps,
    temperature: temperature ?? usual.temperature,
    confidence_threshold: sampler === undefined ? usual.confidence_threshold : 1,
    check: resolveCheck(settings, usual.check && ((hasGaps && usual.gap_check) || usual.check), canCheck),
  };
  requireUsable(config);
  return config;
}

function resolveCheck(settings: Settings, usual: CheckConfig | null, canCheck: boolean): CheckConfig | null {
  if (!(settings.check ?? usual !== null)) return null;
  require(canCheck, "this model did not learn to check; switch the check off");
  const { epsilon, steps, ...rest } = usual ?? USUAL_CHECK;
  return { ...rest, epsilon: settings.epsilon ?? epsilon, steps: settings.redraft ?? steps };
}

export function requireUsable(config: SamplerConfig): void {
  const isCount = (value: number) => Number.isInteger(value) && value >= 1 && value <= MAX_STEPS;
  require(config.name in
    SAMPLERS, `sampler "${config.name}": must be one of ${Object.keys(SAMPLERS).join(", ")}`);
  require(isCount(config.steps), `steps ${config.steps}: must be a whole number from 1 to ${MAX_STEPS}`);
  const { temperature, check } = config;
  require(Number.isFinite(temperature) && temperature > 0, `temperature ${temperature}: must be above 0`);
  if (check === null) return;
  require(isCount(
    check.steps,
  ), `redraft steps ${check.steps}: must be a whole number from 1 to ${MAX_STEPS}`);
  require(check.epsilon >= 0 &&
    check.epsilon < 1, `epsilon ${check.epsilon}: must be at least 0 and below 1`);
}
