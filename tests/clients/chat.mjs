// Plays every scenario with the stock chat of one version of the SDK: node chat.mjs PACKAGE BASE DIALECT

import { chatClass, runAll, Server, textOf } from './shared.mjs';

const [name, base, dialect] = process.argv.slice(2);
const { AbstractChat, DefaultChatTransport, lastAssistantMessageIsCompleteWithApprovalResponses: answeredAll } =
  await import(name);
const Chat = chatClass(AbstractChat);
const server = new Server(base);
// In these a resume goes on from the answer that is already shown, so the page has to take that away first.
const resumesOnTop = ['ai5060', 'ai6020'].includes(name);

const here = `${name}-${dialect}`;

function open(id, messages = []) {
  const transport = new DefaultChatTransport({
    api: `${base}/api/chat?ui=${dialect}`,
    prepareReconnectToStreamRequest: ({ id }) => ({ api: `${base}/api/chat/${id}/stream?ui=${dialect}` }),
  });
  return new Chat({ id, messages, transport, sendAutomaticallyWhen: answeredAll });
}

function asked(question, ...more) {
  return async () => {
    const chat = open(`${here}-${question.replace(" ", "-")}`);
    for (const text of [question, ...more]) await chat.sendMessage({ text });
    return chat.report();
  };
}

/** Allows one call and denies the other, and does so again on the page of somebody who comes later. */
async function approve() {
  const chat = open(`${here}-approve`);
  await chat.sendMessage({ text: 'approve' });
  const before = chat.report();
  const [allowed, denied] = before.messages.at(-1).parts.flatMap(part => part.approval ? [part.approval.id] : []);
  await chat.addToolApprovalResponse({ id: allowed, approved: true });
  await chat.addToolApprovalResponse({ id: denied, approved: false, reason: 'too loud' });
  await chat.shown.until(state => state.status === 'ready' && textOf(state).includes('not run'));
  const late = open(chat.id, before.messages);
  await late.addToolApprovalResponse({ id: denied, approved: true });
  await late.addToolApprovalResponse({ id: allowed, approved: true });
  await late.shown.until(state => state.status === 'ready' && textOf(state).includes('not run'));
  return { ...chat.report(), before, late: late.report() };
}

async function regenerate() {
  const chat = open(`${here}-regenerate`);
  await chat.sendMessage({ text: 'count' });
  const first = chat.report();
  await chat.regenerate();
  return { ...chat.report(), first };
}

async function stop() {
  const chat = open(`${here}-stop`);
  const answered = chat.sendMessage({ text: 'stop' });
  await chat.shown.until(state => textOf(state) === 'One ');
  const stopping = await server.stop(chat.id);
  await answered;
  return { ...chat.report(), stopping };
}

async function resume() {
  const first = open(`${here}-resume`);
  const answered = first.sendMessage({ text: 'slow' });
  await first.shown.until(state => textOf(state) === 'The first half');
  const { messages } = await server.conversation(first.id);
  const second = open(first.id, messages);
  const resumed = second.resumeStream();
  await second.shown.until(state => textOf(state) === 'The first half');
  const before = second.report();
  await server.open(first.id);
  await Promise.all([answered, resumed]);
  return { ...second.report(), before, first: first.report() };
}

/** Says more while the turn runs whose agent listens, here or after this page has turned away from its answer. */
function steer(leaves) {
  return async () => {
    const chat = open(`${here}-steer-${leaves}`);
    const answered = chat.sendMessage({ text: 'steer' });
    await chat.shown.until(state => textOf(state) === 'Listening');
    if (leaves) await chat.stop();
    await Promise.all([answered, chat.sendMessage({ text: 'Oslo' })]);
    return chat.report();
  };
}

/** Says more while a turn runs whose agent does not listen. */
async function unheard() {
  const chat = open(`${here}-unheard`);
  const first = chat.sendMessage({ text: 'slow' });
  await chat.shown.until(state => textOf(state) === 'The first half');
  const second = chat.sendMessage({ text: 'count' });
  while ((await server.conversation(chat.id)).messages.filter(({ role }) => role === 'user').length < 2);
  await server.open(chat.id);
  await Promise.all([first, second]);
  return chat.report();
}

async function resumeNothing() {
  const { messages } = await server.conversation(`${here}-text`);
  const chat = open(`${here}-text`, messages);
  await chat.resumeStream();
  return chat.report();
}

async function rewrite() {
  const chat = open(`${here}-rewrite`);
  const answered = chat.sendMessage({ text: 'rewrite' });
  await chat.shown.until(state => textOf(state) === 'Total: 10');
  await server.open(chat.id);
  await chat.shown.until(state => state.status === 'error' || textOf(state) === 'Total: 12');
  const broken = chat.status === 'error';
  let resumed;
  if (broken) {
    await answered;
    if (resumesOnTop) chat.messages = (await server.conversation(chat.id)).messages;
    chat.clearError();
    resumed = chat.resumeStream();
    await chat.shown.until(state => textOf(state) === 'Total: 12');
  }
  await server.open(`${chat.id}-2`);
  await Promise.all([answered, resumed]);
  return { ...chat.report(), broken };
}

await runAll({
  text: asked('text'),
  reasoning: asked('reasoning'),
  tools: asked('tools'),
  toolerror: asked('toolerror'),
  file: asked('file'),
  data: asked('data'),
  fail: asked('fail'),
  again: asked('count one', 'count two'),
  afterwards: asked('fail first', 'count three'),
  regenerate,
  stop,
  resume,
  'resume nothing': resumeNothing,
  rewrite,
  steer: steer(false),
  'steer after leaving': steer(true),
  unheard,
  ...(answeredAll && dialect !== '5-strict' ? { approve } : {}),
});
