"""Reward ensembles and chat models that worker processes can import."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from personalllm.core.types import ChatReply


class Characters:
    """Two reward models: characters of the response, and characters of both texts divided by three."""

    reward_models, identity = ("long", "third"), "characters@1"

    def __init__(self, delay=0.0, doomed="", folder=""):
        self.delay, self.doomed, self.folder = delay, doomed, folder

    def score(self, prompts, responses):
        time.sleep(self.delay)
        if self.doomed and any(self.doomed in text for text in responses):
            self.die_once()
        response = np.array([len(text) for text in responses], np.float32)
        return np.stack([response, (response + [len(text) for text in prompts]) / np.float32(3)], axis=1)

    def die_once(self):
        try:
            (Path(self.folder) / "died").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


class Echo:
    """Answers with the prompt and the seed; deaf to prompts that end in 7 at their first attempt's seed parity."""

    name, identity, context_length = "echo", "echo@1", 1000

    def chat(self, requests):
        texts = [f"{r.messages[-1].content} {r.seed}" if r.seed % 3 else "" for r in requests]
        return [ChatReply(text, "stop", 3, len(text)) for text in texts]

    def count_tokens(self, messages):
        return 1
