// What the scripts of this folder share; python/cells.py says what they read and print.

import readline from 'node:readline';

// In the cell that is refused because of it, one that the catalogue does not know.
export const model = (cell) => (cell === '400' ? 'mistral-unheard-of' : 'mistral-small-latest');
export const MAX_TOKENS = 200;
export const QUESTION = 'Match this invoice.';
// Sent under the same Idempotency-Key.
export const OTHER_QUESTION = 'Match another invoice.';
export const TEXTS = ['An invoice.', 'An order.'];
export const CODE = 'def total(invoice):';
export const DOCUMENT = 'https://example.com/invoice.pdf';
// A second of silence: 16 bits, 8 kHz.
export const AUDIO = Buffer.alloc(16044);
AUDIO.write('RIFF', 0);
AUDIO.writeUInt32LE(16036, 4);
AUDIO.write('WAVEfmt ', 8);
AUDIO.writeUInt32LE(16, 16);
AUDIO.writeUInt16LE(1, 20);
AUDIO.writeUInt16LE(1, 22);
AUDIO.writeUInt32LE(8000, 24);
AUDIO.writeUInt32LE(16000, 28);
AUDIO.writeUInt16LE(2, 32);
AUDIO.writeUInt16LE(16, 34);
AUDIO.write('data', 36);
AUDIO.writeUInt32LE(16000, 40);
// Sizes of an image's base64; the second is over the gateway's limit.
const IMAGE_BYTES = { large: 30_000_000, 413: 34_000_000 };
export const IDEMPOTENCY_KEY = 'one-key-for-two-requests';
export const TOOL = {
  type: 'function',
  function: {
    name: 'match_invoice',
    description: 'Match an invoice with its order.',
    parameters: { type: 'object', properties: { number: { type: 'integer' } }, required: ['number'] },
  },
};

export const messages = (content) => [{ role: 'user', content }];
// The question; in cells about size beside an image, which each client writes its own way.
export const question = (cell, image) =>
  messages(
    IMAGE_BYTES[cell]
      ? [{ type: 'text', text: QUESTION }, image('data:image/png;base64,' + 'A'.repeat(IMAGE_BYTES[cell]))]
      : QUESTION,
  );
export const streams = (cell) => cell.endsWith('stream');
export const called = (name, args) =>
  name ? { name, arguments: typeof args === 'string' ? JSON.parse(args) : args } : null;

// The code that the gateway wrote, for clients that hand the answer's text on.
export function codeIn(body) {
  try {
    return JSON.parse(body).code ?? null;
  } catch {
    return null;
  }
}

// Answer every line. `describe` tells status and code of an error.
export async function run(client, describe) {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [url, key, cell] = line.split(' ');
    let seen;
    try {
      seen = await client(url, key, cell);
    } catch (error) {
      seen = { error: error?.constructor?.name ?? typeof error, message: String(error), ...describe(error) };
    }
    console.log(JSON.stringify(seen));
  }
}
