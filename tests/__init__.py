from tests.typechecker import checked

__all__ = ["checked"]
