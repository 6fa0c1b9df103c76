// A page in the shape that the SDK's documentation gives for resumable streams, and not a word about this server.

import { useChat } from '@ai-sdk/react';
import { DefaultChatTransport } from 'ai';
import { useState } from 'react';

import { id, loadChat, mount } from './mount.jsx';

function Chat({ chatData, resume = false }) {
  const [input, setInput] = useState('');
  const chat = useChat({
    id: chatData.id,
    messages: chatData.messages,
    resume,
    transport: new DefaultChatTransport({
      prepareSendMessagesRequest: ({ id, messages }) => ({ body: { id, message: messages[messages.length - 1] } }),
    }),
  });

  const stop = () => {
    const last = chat.messages[chat.messages.length - 1];
    void fetch(`/api/chat/${encodeURIComponent(chatData.id)}/stop`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(last?.role === 'assistant' ? { assistantMessage: last } : {}),
    });
    void chat.stop();
  };

  return (
    <main data-status={chat.status}>
      {chat.messages.map(message => (
        <article key={message.id} data-role={message.role}>
          {message.parts.map((part, index) => (part.type === 'text' ? <p key={index}>{part.text}</p> : null))}
        </article>
      ))}
      <form
        onSubmit={event => {
          event.preventDefault();
          chat.sendMessage({ text: input });
          setInput('');
        }}
      >
        <input value={input} onChange={event => setInput(event.target.value)} />
        <button type="submit">Send</button>
      </form>
      <button onClick={stop}>Stop</button>
    </main>
  );
}

mount(<Chat chatData={{ id, messages: await loadChat(id) }} resume />);
