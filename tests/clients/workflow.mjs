// Asks for one long turn after another through the workflow transport, each cut elsewhere: node workflow.mjs BASE DIALECT

import { WorkflowChatTransport } from '@ai-sdk/workflow/client';
import { AbstractChat } from 'ai7';

import { chatClass, runAll } from './shared.mjs';

const [base, dialect] = process.argv.slice(2);
const Chat = chatClass(AbstractChat);
const MOST = 60;

/** The body up to its record number `count`; then it breaks, or ends as if all were well. */
function cutAfter(body, count, breaks) {
  const decoder = new TextDecoder();
  let rest = '';
  let records = 0;
  return body.pipeThrough(
    new TransformStream({
      transform(block, controller) {
        rest += decoder.decode(block, { stream: true });
        const events = rest.split('\n\n');
        rest = events.pop();
        for (const event of events) {
          const counts = event.includes('data: {');
          if (counts && records === count) {
            if (breaks) controller.error(new TypeError('terminated'));
            else controller.terminate();
            return;
          }
          records += counts ? 1 : 0;
          controller.enqueue(new TextEncoder().encode(`${event}\n\n`));
        }
      },
    }),
  );
}

/** One turn; `cut(request)` says after how many records the body of that request ends, or undefined for never. */
function turn(id, cut, breaks) {
  return async () => {
    const asked = [];
    let records = 0;
    const transport = new WorkflowChatTransport({
      api: `${base}/api/chat`,
      prepareSendMessagesRequest: ({ api, id, messages }) => ({ api, body: { id, messages } }),
      onChatEnd: ({ chunkIndex }) => {
        records = chunkIndex;
      },
      fetch: async (url, init) => {
        const address = new URL(url);
        asked.push(address.searchParams.get('startIndex'));
        if (asked.length > MOST) throw new Error('the transport asks without end');
        address.searchParams.set('ui', dialect);
        const response = await fetch(address, init);
        const count = cut(asked.length - 1);
        if (count === undefined || !response.ok) return response;
        return new Response(cutAfter(response.body, count, breaks), response);
      },
    });
    const chat = new Chat({ id, transport });
    await chat.sendMessage({ text: 'long' });
    return { ...chat.report(), asked, records };
  };
}

const first = await turn(`whole-${dialect}`, () => undefined)();
const scenarios = { whole: async () => first };
for (let count = 0; count <= first.records; count++) {
  for (const breaks of [true, false]) {
    const name = `${breaks ? 'broken' : 'ended'}-${count}`;
    scenarios[name] = turn(`${name}-${dialect}`, request => (request === 0 ? count : undefined), breaks);
  }
}
scenarios.crumbs = turn(`crumbs-${dialect}`, () => 1, false);
console.error = () => {}; // The transport tells of every cut there.
await runAll(scenarios);
