"""What methods and runs are given: embedders, chat models, reward ensembles, text classifiers, executors, model files.

The functions here take a name, an object or a function. `executor` is in `personalllm.backends.given` only: here that
name is the subpackage.

>>> from personalllm import backends
>>> backends.embedder(lambda texts: [[len(text), 1.0] for text in texts], identity="length v1").name
'length v1'
"""

from personalllm.backends.given import chat_model, embedder, reward_ensemble

__all__ = ["chat_model", "embedder", "reward_ensemble"]
