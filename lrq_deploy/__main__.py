"""``python -m lrq_deploy`` is ``lrq-deploy``."""

from lrq_deploy.cli.main import run

if __name__ == "__main__":
    run()
