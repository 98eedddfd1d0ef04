"""Chat models: the local runtime, vLLM, servers that speak the OpenAI protocol, and a disk cache for any of them."""

from personalllm.backends.llm.cache import CachedChatModel
from personalllm.backends.llm.limits import RateLimiter
from personalllm.backends.llm.local import DEFAULT_CHAT_MODEL, LocalChatModel
from personalllm.backends.llm.openai import OpenAIChatModel, ServerOptions
from personalllm.backends.llm.serve import ChatServer
from personalllm.backends.llm.tokenizer import ChatTokenizer
from personalllm.backends.llm.vllm import VLLMChatModel

__all__ = [
    "DEFAULT_CHAT_MODEL",
    "CachedChatModel",
    "ChatServer",
    "ChatTokenizer",
    "LocalChatModel",
    "OpenAIChatModel",
    "RateLimiter",
    "ServerOptions",
    "VLLMChatModel",
]
