// The pages of the SDK's own documentation, as they stand there: with `?id=` the one that is given a history.

import Page from 'documented:02-chatbot.mdx#app/page.tsx';
import Chat from 'documented:03-chatbot-message-persistence.mdx#ui/chat.tsx';

import { id, loadChat, mount } from './mount.jsx';

mount(id ? <Chat id={id} initialMessages={await loadChat(id)} /> : <Page />);
