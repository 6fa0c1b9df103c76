"""WeCom: bubbles that follow a turn, and what people send to an AI bot."""
