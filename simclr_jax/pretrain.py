"""Names the command that replaces `python -m simclr_jax.pretrain`.

Importing this file is an error: `simclr_jax.pretrain` is a function, and Python binds
an imported submodule to that name.
"""

from simclr_jax.old_commands import exit_with

if __name__ != "__main__":
    raise ImportError("simclr_jax.pretrain is a function: import simclr_jax, then call")
exit_with("pretrain")
