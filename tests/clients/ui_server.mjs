// A server of the AI SDK without a model: what a remote agent is that was written with it. Prints its address; ends with
// its standard input.
import http from 'node:http';
import { createUIMessageStream, createUIMessageStreamResponse, streamText, tool, stepCountIs, convertToModelMessages } from 'ai7';
import { MockLanguageModelV4, simulateReadableStream } from 'ai7/test';
import { z } from 'zod';

const USAGE = {
  inputTokens: { total: 3, noCache: 3, cacheRead: undefined, cacheWrite: undefined },
  outputTokens: { total: 4, text: 4, reasoning: undefined },
};

const finish = unified => ({ type: 'finish', finishReason: { unified, raw: unified }, usage: USAGE });
const text = (id, ...deltas) => [
  { type: 'text-start', id },
  ...deltas.map(delta => ({ type: 'text-delta', id, delta })),
  { type: 'text-end', id },
];

/** A model that answers its requests with `answers`, one after the other. */
function model(...answers) {
  return new MockLanguageModelV4({
    modelId: 'mock-1',
    doStream: async () => ({
      stream: simulateReadableStream({ chunks: [{ type: 'stream-start', warnings: [] }, ...answers.shift()] }),
    }),
  });
}

const CALL = { type: 'tool-call', toolCallId: 'c1', toolName: 'weather', input: '{"city":"Ulm"}' };
const input = z.object({ city: z.string() });

const asked = (messages, answers, more = {}) =>
  convertToModelMessages(messages).then(prompt =>
    streamText({ model: model(...answers), messages: prompt, stopWhen: stepCountIs(5), ...more })
      .toUIMessageStreamResponse({
        originalMessages: messages,
        sendSources: true,
        onError: error => `it broke: ${error.message}`,
        messageMetadata: ({ part }) =>
          part.type === 'finish' ? { totalUsage: part.totalUsage, model: 'mock-1' } : undefined,
      }));

const SCENARIOS = {
  text: ({ messages }) => asked(messages, [[...text('0', 'Hel', 'lo'), finish('stop')]]),
  tools: ({ messages }) =>
    asked(messages, [
      [{ type: 'reasoning-start', id: 'r' }, { type: 'reasoning-delta', id: 'r', delta: 'Hm.' },
        { type: 'reasoning-end', id: 'r', providerMetadata: { p: { signature: 's' } } }, CALL, finish('tool-calls')],
      [...text('0', 'Sunny.'), finish('stop')],
    ], { tools: { weather: tool({ inputSchema: input, execute: async ({ city }) => ({ city, sky: 'blue' }) }) } }),
  approval: ({ messages }) => {
    const answered = messages.at(-1).role === 'assistant';
    return asked(messages, answered ? [[...text('0', 'Done.'), finish('stop')]] : [[CALL, finish('tool-calls')]], {
      tools: { weather: tool({ inputSchema: input, needsApproval: true, execute: async () => 'blue' }) },
    });
  },
  error: ({ messages }) =>
    asked(messages, [[...text('0', 'Half'), { type: 'error', error: new Error('no more') }, finish('error')]]),
  data: () =>
    createUIMessageStreamResponse({
      stream: createUIMessageStream({
        execute: ({ writer }) => {
          writer.write({ type: 'data-chart', id: '1', data: [1] });
          writer.write({ type: 'data-chart', id: '1', data: [2] });
          writer.write({ type: 'data-note', data: 'passing', transient: true });
          for (const part of text('a', 'Mer', 'ged')) writer.write(part);
          writer.write({ type: 'source-url', sourceId: 's', url: 'https://example.org', title: 'E' });
          writer.write({ type: 'file', url: 'data:text/plain;base64,aGk=', mediaType: 'text/plain' });
        },
      }),
    }),
};

const server = http.createServer(async (request, response) => {
  let body = '';
  for await (const piece of request) body += piece;
  const answer = await SCENARIOS[request.url.slice(1)](JSON.parse(body));
  response.writeHead(answer.status, Object.fromEntries(answer.headers));
  for await (const piece of answer.body) response.write(piece);
  response.end();
});
server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
