"""What the page says, in English and in Chinese: one table, both columns complete.

    language_of("zh-CN,zh;q=0.9,en;q=0.8")      # "zh"
    text("send", "zh")                          # 发送

Values are filled in by name, under the same names in both languages.
"""

from __future__ import annotations

from typing import Literal

Language = Literal["en", "zh"]

TEXTS: dict[str, tuple[str, str]] = {
    "placeholder": (
        "Write a message. Enter sends it, Shift+Enter begins a new line.",
        "输入消息。Enter 发送，Shift+Enter 换行。",
    ),
    "placeholder_result": ("Write what {names} returned.", "请输入 {names} 的返回结果。"),
    "welcome": ("Ask {models} something.", "向 {models} 提问吧。"),
    "send": ("Send", "发送"),
    "stop": ("Stop", "停止"),
    "attach": ("Attach a text file", "添加文本文件"),
    "new": ("New chat", "新对话"),
    "regenerate": ("Regenerate", "重新生成"),
    "before": ("Version before", "上一个版本"),
    "after": ("Next version", "下一个版本"),
    "version": ("question {turn}: version {number} of {count}", "问题 {turn}：第 {number} / {count} 版"),
    "settings": ("Settings", "设置"),
    "models": ("Models (up to 3, side by side)", "模型（最多 3 个，并排对比）"),
    "system": ("System prompt", "系统提示"),
    "sampling": ("Sampling", "采样参数"),
    "temperature": ("Temperature", "温度 (temperature)"),
    "top_p": ("Top p", "Top p"),
    "top_k": ("Top k (0: all)", "Top k（0 为不限）"),
    "repetition_penalty": ("Repetition penalty", "重复惩罚"),
    "max_tokens": ("Tokens of an answer, at most", "回答的最大 token 数"),
    "seed": ("Seed (empty: another one each time)", "随机种子（留空则每次不同）"),
    "own": ("Use each model's own sampling settings", "使用各模型自带的采样设置"),
    "thinking": ("Thoughts", "思考"),
    "thinking_auto": ("as the model does", "按模型默认"),
    "thinking_on": ("think first", "先思考"),
    "thinking_off": ("answer at once", "直接回答"),
    "tools": ("Tools (a JSON list of functions; nothing is run here)", "工具（JSON 函数列表；此处不会执行）"),
    "download": ("Download", "下载"),
    "language": ("Language", "语言"),
    "dark": ("Light or dark", "浅色 / 深色"),
    "thoughts": ("Thoughts", "思考过程"),
    "calls": ("Calls {name}", "调用 {name}"),
    "result": ("Result of {name}", "{name} 的结果"),
    "file": ("file {name}, {size} characters", "文件 {name}，{size} 个字符"),
    "stopped": ("stopped", "已停止"),
    "length": ("cut off at the limit of tokens", "已达 token 上限"),
    "no_answer": ("The model has answered with nothing.", "模型没有给出任何内容。"),
    "refused": ("The server refuses", "服务器拒绝了请求"),
    "failed": ("The answer has failed; the server's log says why.", "回答失败；原因见服务器日志。"),
    "only_questions": ("Only what was asked can be edited.", "只能编辑提问。"),
    "busy": ("An answer is still being written.", "回答仍在生成中。"),
    "figures": (
        "{model}: {answer} tokens at {speed}/s, the first after {first} s; the prompt had {prompt}",
        "{model}：{answer} 个 token，{speed} 个/秒，首个用时 {first} 秒；提示共 {prompt} 个",
    ),
    "parameters": ("{count} parameters", "{count} 参数"),
    "not_loaded": ("loaded when it is first asked", "首次提问时加载"),
    "toy": (
        "a toy: too small to know things. Do not believe what it says.",
        "玩具模型：规模太小，并不具备知识，请勿相信其回答。",
    ),
    "bad_file": ("{name}: not a text file in UTF-8", "{name}：不是 UTF-8 文本文件"),
    "large_file": ("{name}: {size} characters; at most {most}", "{name}：{size} 个字符；最多 {most} 个"),
    "many_files": ("at most {most} files with one message", "每条消息最多 {most} 个文件"),
    "bad_number": ("{name}: {value} is not a number", "{name}：{value} 不是数字"),
    "bad_tools": ("Tools: not a JSON list", "工具：不是 JSON 列表"),
    "no_model": ("No model is chosen.", "尚未选择模型。"),
    "remove": ("Remove {name}", "移除 {name}"),
    "key_title": ("Key", "密钥"),
    "key_send": ("Open the chat", "打开对话"),
    "key_note": (
        "This server answers those who have a key. It is kept until the browser's session ends.",
        "此服务器需要密钥。密钥仅保留到浏览器会话结束。",
    ),
    "key_wrong": ("This key is not known.", "密钥无效。"),
    "leave": ("Forget the key", "清除密钥"),
    "keyboard": (
        "Esc stops · Alt+← and Alt+→ change the version · Ctrl+/ goes to the message",
        "Esc 停止 · Alt+← / Alt+→ 切换版本 · Ctrl+/ 回到输入框",
    ),
}  # fmt: skip


REFUSALS: dict[str, tuple[str, str]] = {
    "context_length_exceeded": (
        "The conversation is longer than the model can read",
        "对话超出了模型的长度上限",
    ),
    "prompt_too_long": ("The conversation is longer than the key allows", "对话超出了此密钥允许的长度"),
    "max_tokens_exceeded": ("The answer may not be that long with this key", "要求的回答长度超出了此密钥的上限"),
    "rate_limit_exceeded": ("Too many requests or tokens in this minute", "本分钟内的请求数或 token 数已达上限"),
    "queue_full": ("Too many requests wait; try again later", "排队的请求过多，请稍后再试"),
    "server_busy": ("The server has too much to do; try again later", "服务器繁忙，请稍后再试"),
    "timeout": ("The answer took too long", "回答超时"),
    "draining": ("The server is ending", "服务器正在关闭"),
    "engine_stopped": ("The model does not run any more; try again", "模型已停止运行，请重试"),
    "model_unavailable": ("The model cannot be had now", "模型暂时不可用"),
    "model_not_found": ("There is no such model for this key", "没有这个模型，或此密钥无权使用"),
    "invalid_api_key": ("The key is missing, or not known", "密钥缺失或无效"),
    "body_too_large": ("The conversation is larger than the server takes", "对话超出了服务器接受的大小"),
    "tools_not_shown": ("This model does not know of tools", "此模型不支持工具"),
    "unsupported_field": ("The model or the server does not do that", "模型或服务器不支持此项"),
    "unsupported_combination": ("These settings do not go together", "这些设置不能同时使用"),
    "invalid_value": ("A setting has a value that is not allowed", "某项设置的值无效"),
    "invalid_message": ("A message is not as the model needs it", "消息的格式不符合模型要求"),
    "generation_failed": ("The answer has failed", "生成回答时出错"),
}  # fmt: skip
"""What a refusal is, by its code; those that are not here are `refused`. Its details are in English alone."""


def refusal_text(code: str, language: Language) -> str:
    """Return what a refusal of this code is."""
    return REFUSALS.get(code, TEXTS["refused"])[language == "zh"]


def text(name: str, language: Language, /, **values: object) -> str:
    """Return one text, with its values filled in."""
    return TEXTS[name][language == "zh"].format(**values)


def language_of(accept_language: str | None) -> Language:
    """Return which of the two a browser likes more, by its header Accept-Language; English where it likes neither."""
    best: tuple[float, Language] = (0.0, "en")
    for part in (accept_language or "")[:500].split(","):
        name, _, weight = part.strip().lower().partition(";q=")
        language: Language | None = "zh" if name.startswith("zh") else "en" if name.startswith("en") else None
        try:
            likes = float(weight or 1)
        except ValueError:
            continue
        if language is not None and likes > best[0]:
            best = (likes, language)
    return best[1]
