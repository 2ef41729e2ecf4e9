"""Piezas comunes de las pruebas. Lo demás está en `utiles.py`."""

import pytest

from tests import utiles


@pytest.fixture
def charla():
    """Una sala en marcha, con los ajustes de siempre, que se cierra y se comprueba al acabar."""
    with utiles.servidor() as sala_de_pruebas:
        yield sala_de_pruebas
