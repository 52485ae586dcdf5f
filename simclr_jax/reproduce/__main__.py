"""Names the command that replaces `python -m simclr_jax.reproduce`."""

from simclr_jax.old_commands import exit_with

if __name__ == "__main__":
    exit_with("reproduce")
