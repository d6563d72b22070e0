// OpenAI's own client.

import OpenAI, { toFile } from 'openai';
import * as cells from './cells.mjs';

// What the other routes give.
const ROUTES = {
  models: async (client) => (await client.models.list()).data.map((model) => model.id),
  model: async (client) => (await client.models.retrieve(cells.model('model'))).id,
  embeddings: async (client) =>
    (await client.embeddings.create({ model: 'mistral-embed', input: cells.TEXTS })).data.map((each) => each.embedding.length),
  transcription: async (client) => {
    const file = await toFile(cells.AUDIO, 'memo.wav');
    return (await client.audio.transcriptions.create({ model: 'voxtral-mini-latest', file })).text;
  },
};

async function call(url, key, cell) {
  const client = new OpenAI({ apiKey: key, baseURL: `${url}/v1` });
  if (ROUTES[cell]) return { content: await ROUTES[cell](client) };
  const request = {
    model: cells.model(cell),
    messages: cells.question(cell, (url) => ({ type: 'image_url', image_url: { url } })),
    max_completion_tokens: cells.MAX_TOKENS,
    ...(cell.startsWith('tools') && { tools: [cells.TOOL], tool_choice: 'required' }),
  };
  const options = {};
  if (cell === '422') {
    options.headers = { 'idempotency-key': cells.IDEMPOTENCY_KEY };
    await client.chat.completions.create(request, options);
    request.messages = cells.messages(cells.OTHER_QUESTION);
  }
  if (cell.endsWith('helper')) return told(client.chat.completions.stream(request));
  if (cells.streams(cell)) {
    const streamed = { ...request, stream: true, stream_options: { include_usage: true } };
    return collected(await client.chat.completions.create(streamed, options));
  }
  return shown((await client.chat.completions.create(request, options)).choices[0]);
}

// What the helper for streams tells on the way, beside the answer that it puts together.
async function told(stream) {
  const names = [];
  for (const what of ['content', 'tool_calls.function.arguments']) {
    for (const name of [`${what}.delta`, `${what}.done`]) stream.on(name, () => names.push(name));
  }
  return { ...shown((await stream.finalChatCompletion()).choices[0]), told: names };
}

function shown({ message, finish_reason }) {
  const made = message.tool_calls?.[0].function;
  return { content: message.content, finish_reason, tool: cells.called(made?.name, made?.arguments) };
}

async function collected(stream) {
  let content = '', finish_reason = null, name = '', args = '';
  for await (const chunk of stream) {
    for (const choice of chunk.choices) {
      content += choice.delta.content ?? '';
      finish_reason = choice.finish_reason ?? finish_reason;
      for (const made of choice.delta.tool_calls ?? []) {
        name += made.function.name ?? '';
        args += made.function.arguments ?? '';
      }
    }
  }
  return { content, finish_reason, tool: cells.called(name, args) };
}

cells.run(call, (error) => ({ status: error.status, code: error.code }));
