// The AI SDK's own way to serve a chat whose streams can be taken up again: `streamText`, its UI message stream, and
// `resumable-stream` over Redis, all in one Node server. UPSTREAM and REDIS_URL name the servers it talks to.
import { createServer } from 'node:http';
import { json } from 'node:stream/consumers';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { convertToModelMessages, generateId, pipeUIMessageStreamToResponse, streamText, toUIMessageStream } from 'ai';
import { createResumableStreamContext } from 'resumable-stream';

const provider = createOpenAICompatible({ name: 'paced', baseURL: process.env.UPSTREAM, includeUsage: true });
// Nothing here ends before its work does, so what is to be waited for needs no help.
const streams = createResumableStreamContext({ waitUntil: null });
const active = new Map();

async function chat(request, response) {
  const { id, messages } = await json(request);
  const result = streamText({ model: provider('paced-1'), messages: await convertToModelMessages(messages) });
  await pipeUIMessageStreamToResponse({
    response,
    stream: toUIMessageStream({
      stream: result.stream,
      originalMessages: messages,
      generateMessageId: generateId,
      onEnd: () => active.delete(id),
    }),
    async consumeSseStream({ stream }) {
      const name = generateId();
      await streams.createNewResumableStream(name, () => stream);
      active.set(id, name);
    },
  });
}

const server = createServer((request, response) => {
  chat(request, response).catch(error => {
    console.error(error);
    response.destroy();
  });
});
server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
  console.log(`ready http://127.0.0.1:${server.address().port}`);
});
