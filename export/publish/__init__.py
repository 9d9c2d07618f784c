"""Writing into a model repository without anybody ever seeing a half."""
