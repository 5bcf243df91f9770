/** Something the reader can put right; the message says what, where and what to do. */
export class UserError extends Error {}

export function require(holds: boolean, message: string): asserts holds {
  if (!holds) throw new UserError(message);
}
