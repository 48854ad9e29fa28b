"""vLLM plugin: visual tokens are carved behind the vision tower, before vLLM's language model.

Only this folder imports vllm, and of it only the modules that vLLM itself loads. What decides is
the same as everywhere: a Method makes a KeepPlan out of VisualTokens.

- settings: the "foveate" entry of vLLM's --additional-config -> a Method that can act there.
- selection: one image's features -> the tokens that go on.
- positions: three-dimensional rotary positions of kept tokens, carried beside their features.
- plugin: the entry point; config_hook: checks when an engine is configured.
- encoder, llava, qwen: the model classes; processor: fewer placeholders in the prompt.
- metrics: counters. command: the command line of `foveate serve`.
"""
