"""The emoji that a message can be reacted to with, each with a sign that resembles it on the simulator's page.

Guarantee: only these are taken; the platform refuses names that it does not know, and they are case sensitive.
"""

from __future__ import annotations

EMOJI = {
    "OK": "👌", "THUMBSUP": "👍", "ThumbsDown": "👎", "THANKS": "🙏", "MUSCLE": "💪", "FINGERHEART": "🫰",
    "APPLAUSE": "👏", "FISTBUMP": "🤜", "JIAYI": "➕", "DONE": "✅", "SMILE": "😊", "BLUSH": "😊", "LAUGH": "😆",
    "SMIRK": "😏", "LOL": "😂", "FACEPALM": "🤦", "LOVE": "😍", "WINK": "😉", "THINKING": "🤔", "SOB": "😭",
    "CRY": "😢", "ERROR": "❌", "CLAP": "👏", "PRAISE": "🌟", "STRIVE": "💪", "WAVE": "👋", "HUG": "🤗", "Shrug": "🤷",
    "WOW": "😮", "HEART": "❤️", "HEARTBROKEN": "💔", "PARTY": "🎉", "BEER": "🍺", "CAKE": "🎂", "GIFT": "🎁",
    "ROSE": "🌹", "Coffee": "☕", "Yes": "✔️", "No": "✖️", "CheckMark": "✅", "CrossMark": "❌", "MinusOne": "➖",
    "Hundred": "💯", "Pin": "📌", "Alarm": "⏰", "Loudspeaker": "📢", "Trophy": "🏆", "Fire": "🔥", "BOMB": "💣",
    "Music": "🎵", "Typing": "⌨️", "Get": "📥", "LGTM": "👀", "OnIt": "🏃", "OneSecond": "⏳", "MeMeMe": "🙋",
    "Sigh": "😮‍💨", "SALUTE": "🫡", "SHAKE": "🤝", "HIGHFIVE": "🙌", "EatingFood": "🍽️", "Lemon": "🍋",
    "YouAreTheBest": "🥇", "SKULL": "💀", "SWEAT": "😅", "SPEECHLESS": "😶", "SLEEP": "😴", "ANGRY": "😠",
    "Status_PrivateMessage": "💬", "StatusReading": "📖", "GoGoGo": "🚀", "ClownFace": "🤡", "HappyDragon": "🐉",
}  # fmt: skip
