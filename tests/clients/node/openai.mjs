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
  if (cells.streams(cell)) {
    const streamed = { ...request, stream: true, stream_options: { include_usage: true } };
    return collected(await client.chat.completions.create(streamed, options));
  }
  const { message, finish_reason } = (await client.chat.completions.create(request, options)).choices[0];
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
