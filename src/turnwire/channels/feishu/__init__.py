"""Feishu and Lark: cards that follow a turn, and what people send to the bot."""
