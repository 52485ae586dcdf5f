"""simclr-jax COMMAND ...; see `simclr_jax.cli.main`."""

from simclr_jax.cli.main import main

if __name__ == "__main__":
    main()
