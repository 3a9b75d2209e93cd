"""Make ``python -m manymodes`` the same as ``manymodes``."""

from .main import main

raise SystemExit(main())
