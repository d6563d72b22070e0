// Mistral's own client.

import { Mistral } from '@mistralai/mistralai';
import * as cells from './cells.mjs';

const code = { model: 'codestral-latest', prompt: cells.CODE, maxTokens: cells.MAX_TOKENS };

// What the other routes give.
const ROUTES = {
  models: async (client) => (await client.models.list()).data.map((model) => model.id),
  model: async (client) => (await client.models.retrieve({ modelId: cells.model('model') })).id,
  fim: async (client) => (await client.fim.complete(code)).choices[0].message.content,
  'fim-stream': async (client) => (await collected(await client.fim.stream(code))).content,
  embeddings: async (client) =>
    (await client.embeddings.create({ model: 'mistral-embed', inputs: cells.TEXTS })).data.map((each) => each.embedding.length),
  moderations: async (client) =>
    (await client.classifiers.moderate({ model: 'mistral-moderation-latest', inputs: cells.TEXTS })).results.length,
  ocr: async (client) => {
    const document = { type: 'document_url', documentUrl: cells.DOCUMENT };
    return (await client.ocr.process({ model: 'mistral-ocr-latest', document, pages: [0] })).pages.map((page) => page.markdown);
  },
  transcription: async (client) => {
    const file = { fileName: 'memo.wav', content: cells.AUDIO };
    return (await client.audio.transcriptions.complete({ model: 'voxtral-mini-latest', file })).text;
  },
};

async function call(url, key, cell) {
  const client = new Mistral({ apiKey: key, serverURL: url });
  if (ROUTES[cell]) return { content: await ROUTES[cell](client) };
  const request = {
    model: cells.model(cell),
    messages: cells.question(cell, (url) => ({ type: 'image_url', imageUrl: { url } })),
    maxTokens: cells.MAX_TOKENS,
    ...(cell.startsWith('tools') && { tools: [cells.TOOL], toolChoice: 'any' }),
  };
  const options = {};
  if (cell === '422') {
    options.headers = { 'idempotency-key': cells.IDEMPOTENCY_KEY };
    await client.chat.complete(request, options);
    request.messages = cells.messages(cells.OTHER_QUESTION);
  }
  if (cells.streams(cell)) return collected(await client.chat.stream(request, options));
  const { message, finishReason } = (await client.chat.complete(request, options)).choices[0];
  const made = message.toolCalls?.[0]?.function;
  return { content: message.content, finish_reason: finishReason, tool: cells.called(made?.name, made?.arguments) };
}

async function collected(stream) {
  let content = '', finish_reason = null, name = '', args = '';
  for await (const { data } of stream) {
    for (const choice of data.choices) {
      content += choice.delta.content ?? '';
      finish_reason = choice.finishReason ?? finish_reason;
      for (const made of choice.delta.toolCalls ?? []) {
        name += made.function.name ?? '';
        args += made.function.arguments ?? '';
      }
    }
  }
  return { content, finish_reason, tool: cells.called(name, args) };
}

cells.run(call, (error) => ({ status: error.statusCode, code: cells.codeIn(error.body) }));
