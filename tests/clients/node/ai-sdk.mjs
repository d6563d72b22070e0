// Vercel's AI SDK with its Mistral provider.

import { createMistral } from '@ai-sdk/mistral';
import { APICallError, RetryError, generateText, jsonSchema, streamText, tool } from 'ai';
import * as cells from './cells.mjs';

const tools = {
  match_invoice: tool({
    description: cells.TOOL.function.description,
    inputSchema: jsonSchema(cells.TOOL.function.parameters),
  }),
};

async function call(url, key, cell) {
  const headers = cell === '422' ? { 'idempotency-key': cells.IDEMPOTENCY_KEY } : {};
  const request = {
    model: createMistral({ apiKey: key, baseURL: `${url}/v1`, headers })(cells.model(cell)),
    prompt: cells.QUESTION,
    maxOutputTokens: cells.MAX_TOKENS,
    ...(cell.startsWith('tools') && { tools, toolChoice: 'required' }),
  };
  if (cell === '422') {
    await generateText(request);
    request.prompt = cells.OTHER_QUESTION;
  }
  if (cells.streams(cell)) return collected(request);
  const { text, finishReason, toolCalls } = await generateText(request);
  return { content: text, finish_reason: finishReason, tool: cells.called(toolCalls[0]?.toolName, toolCalls[0]?.input) };
}

async function collected(request) {
  let failure;
  const result = streamText({ ...request, onError: ({ error }) => (failure = error) });
  let content = '';
  for await (const text of result.textStream) content += text;
  if (failure) throw failure;
  const made = (await result.toolCalls)[0];
  return { content, finish_reason: await result.finishReason, tool: cells.called(made?.toolName, made?.input) };
}

cells.run(call, (error) => {
  const last = RetryError.isInstance(error) ? error.lastError : error;
  if (!APICallError.isInstance(last)) return {};
  return { status: last.statusCode, code: cells.codeIn(last.responseBody) };
});
