"""`python -m personalllm`."""

from personalllm.cli import main

if __name__ == "__main__":
    main()
