// Shows every kind of part, with what docs/how-to/use-with-ai-sdk.md says a page does: `?id=` and `?ui=`.

import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { useEffect, useState } from 'react';

import { address, id, mount } from './mount.jsx';

const ui = address.get('ui');
const transport = new DefaultChatTransport({
  api: `/api/chat?ui=${ui}`,
  prepareReconnectToStreamRequest: ({ id }) => ({ api: `/api/chat/${id}/stream?ui=${ui}` }),
});

function Tool({ name, part }) {
  // Before version 7, arguments that are no JSON stand elsewhere.
  const { state, input = part.rawInput, output, errorText } = part;
  return (
    <div data-part={`${name} ${state}`}>{[input, errorText ?? output].map(one => JSON.stringify(one)).join(' → ')}</div>
  );
}

function Part({ part }) {
  if (part.type === 'text') return <p data-part="text">{part.text}</p>;
  if (part.type === 'reasoning') return <em data-part="reasoning">{part.text}</em>;
  if (part.type === 'dynamic-tool') return <Tool name={part.toolName} part={part} />;
  if (part.type.startsWith('tool-')) return <Tool name={part.type.slice('tool-'.length)} part={part} />;
  // A stream tells no name of a file but the one in its address.
  if (part.type === 'file') {
    const name = part.url.split('/').at(-1);
    return <a data-part="file" href={part.url}>{`${name}, ${part.mediaType}`}</a>;
  }
  if (part.type === 'source-url') return <a data-part="source" href={part.url}>{part.title}</a>;
  if (part.type.startsWith('data-')) return <code data-part={part.type}>{JSON.stringify(part.data)}</code>;
  return null;
}

function Chat({ history, onLost }) {
  const [input, setInput] = useState('');
  const [notes, setNotes] = useState([]);
  const { messages, sendMessage, regenerate, stop, resumeStream, status, error } = useChat({
    id,
    messages: history,
    resume: true,
    transport,
    onData: part => setNotes(before => [...before, part]),
    onError: error => {
      if (error instanceof TypeError) setTimeout(onLost, 1000);
    },
  });
  const stopAnswer = () => fetch(`/api/chat/${id}/stop`, { method: 'POST' });
  window.shown = JSON.stringify(messages);
  return (
    <main data-status={status}>
      {messages.map(message => (
        <article key={message.id} data-role={message.role} data-outcome={message.metadata?.turnwire?.outcome}>
          {message.parts.map((part, index) => (
            <Part key={index} part={part} />
          ))}
        </article>
      ))}
      {error && <p role="alert">{`${error.name}: ${error.message}`}</p>}
      <aside>{notes.filter(part => part.type === 'data-note').map(part => part.data)}</aside>
      <form
        onSubmit={event => {
          event.preventDefault();
          sendMessage({ text: input });
          setInput('');
        }}
      >
        <input value={input} onChange={event => setInput(event.target.value)} />
        <button type="submit">Send</button>
      </form>
      <button onClick={stopAnswer}>Stop</button>
      <button onClick={() => regenerate()}>Again</button>
      <button onClick={() => stop()}>Leave</button>
      <button onClick={() => resumeStream()}>Return</button>
    </main>
  );
}

/** The chat, mounted anew whenever its connection was lost. */
function Conversation() {
  const [round, setRound] = useState(0);
  const [held, setHeld] = useState(null);

  useEffect(() => {
    const gone = new AbortController();
    async function load() {
      const response = await fetch(`/api/chat/${id}`, { signal: gone.signal }).catch(() => null);
      if (gone.signal.aborted) return;
      if (!response || response.status >= 500) return setTimeout(load, 1000);
      setHeld({ round, history: response.ok ? (await response.json()).messages : [] });
    }
    load();
    return () => gone.abort();
  }, [round]);

  return held && <Chat key={held.round} history={held.history} onLost={() => setRound(round + 1)} />;
}

mount(<Conversation />);
