"""Chat models: the local runtime."""

from personalllm.backends.llm.local import DEFAULT_CHAT_MODEL, LocalChatModel

__all__ = ["DEFAULT_CHAT_MODEL", "LocalChatModel"]
