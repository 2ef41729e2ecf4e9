"""Piezas comunes de las pruebas. Lo demás está en `utiles.py`."""

import signal

import pytest

from tests import procesos, utiles


@pytest.fixture(autouse=True)
def sin_clave_ajena(monkeypatch):
    """La `CHAT_CLAVE` de quien pasa las pruebas no es de ellas."""
    monkeypatch.delenv('CHAT_CLAVE', raising=False)


@pytest.fixture(autouse=True, scope='session')
def sin_nohup():
    """Los programas heredan que SIGHUP se ignore, si así se lanzaron las pruebas, y lo respetan: aquí, no."""
    antes = signal.signal(signal.SIGHUP, signal.SIG_DFL) if hasattr(signal, 'SIGHUP') else None
    yield
    if antes is not None:
        signal.signal(signal.SIGHUP, antes)


@pytest.fixture
def charla():
    """Una sala en marcha, con los ajustes de siempre, que se cierra y se comprueba al acabar."""
    with utiles.servidor() as sala_de_pruebas:
        yield sala_de_pruebas


@pytest.fixture
def lanzar():
    """Función que lanza programas; al acabar la prueba se matan los que queden."""
    procesos_vivos = []

    def nuevo(*argumentos, **opciones):
        procesos_vivos.append(procesos.Proceso(*argumentos, **opciones))
        return procesos_vivos[-1]

    yield nuevo
    for proceso in reversed(procesos_vivos):
        proceso.matar()


@pytest.fixture
def arrancar(lanzar):
    """Función que arranca `server.py` y devuelve `(proceso, puerto)`."""
    def nuevo(*argumentos, puerto=0):
        proceso = lanzar('server.py', '--puerto', puerto, '--ritmo', 0, *argumentos)
        proceso.esperar('Escuchando en ')
        return proceso, int(proceso.salida.split(':')[1].split()[0])
    return nuevo


@pytest.fixture
def vecino():
    """Función que mete a alguien en la sala; al acabar la prueba se van todos."""
    vecinos = []

    def nuevo(*argumentos):
        vecinos.append(procesos.Vecino(*argumentos))
        return vecinos[-1]

    yield nuevo
    for uno in vecinos:
        uno.cerrar()
