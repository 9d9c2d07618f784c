"""Models put together from published ones: a tokenizer in front of an encoder, a memory in front of a step."""
