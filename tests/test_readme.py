"""Los clientes de «Trae tu propio cliente», tal como están impresos en el README, en procesos de verdad."""

import re

import pytest

from tests.utiles import RAIZ

CLIENTES = dict(re.findall(r'\*\*([A-E])\*\*\n```python\n(.*?)```\n', (RAIZ / 'README.md').read_text(encoding='utf-8'), re.S))
NICKS = {'A': 'ana', 'B': 'berta', 'C': 'carla', 'D': 'dora'}


@pytest.fixture
def cliente(lanzar, tmp_path):
    """Función que lanza el de una familia contra un puerto."""
    def nuevo(familia, puerto):
        archivo = tmp_path / f'{familia}.py'
        archivo.write_text(CLIENTES[familia], encoding='utf-8')
        return lanzar(archivo, puerto, entorno={'PYTHONUTF8': '1'})
    return nuevo


def entrar(familia, cliente):
    """Lo que teclea una persona hasta estar dentro."""
    if familia == 'C':
        cliente.escribir('¿hay alguien?\n')
    if familia == 'D':
        cliente.esperar('Nick: ')
        cliente.escribir('dora\n')
    cliente.esperar(f'Hola, {NICKS[familia]}.')


def test_estan_las_cinco_familias_y_ninguna_pasa_de_diez_lineas():
    assert set(CLIENTES) == set('ABCDE')
    assert all(len(programa.splitlines()) <= 10 for programa in CLIENTES.values())


def test_los_de_la_sala_se_ven_unos_a_otros_y_se_van_al_acabar_su_entrada(arrancar, cliente):
    _, puerto = arrancar()
    clientes = {}
    for familia in NICKS:
        clientes[familia] = cliente(familia, puerto)
        entrar(familia, clientes[familia])
    for familia, uno in clientes.items():
        uno.escribir(f'¿qué tal, año? 😀 soy la {familia}\n')
        for otra, otro in clientes.items():
            if otra != familia:
                otro.esperar(f'¿qué tal, año? 😀 soy la {familia}\n')
    for uno in clientes.values():
        uno.cerrar_entrada()
        assert uno.acabar() == 0 and not uno.errores
    vistos = [re.findall('soy la (.)', uno.salida) for uno in clientes.values()]
    assert vistos == [list('BCD'), list('ACD'), list('ABD'), list('ABC')]
    assert '[berta] ¿qué tal' in clientes['A'].salida and 'ana: ¿qué tal' in clientes['B'].salida
    assert '*: dora entró.' in clientes['B'].salida and '* carla salió.' in clientes['D'].salida


@pytest.mark.parametrize('familia', NICKS)
def test_quien_se_despide_acaba_aunque_su_entrada_siga_abierta(arrancar, cliente, familia):
    uno = cliente(familia, arrancar()[1])
    entrar(familia, uno)
    uno.escribir('/salir\n')
    assert uno.acabar() == 0 and not uno.errores
    assert f'Hasta luego, {NICKS[familia]}.' in uno.salida


def test_el_de_eco_recibe_lo_que_envia_hasta_despedirse(arrancar, cliente):
    eco, puerto = arrancar('--eco')
    uno = cliente('E', puerto)
    for linea in ('Hola Server!', '¿qué tal, año? 😀', 'desconectar'):
        uno.escribir(linea + '\n')
        uno.esperar(linea + '\n')
    assert uno.acabar() == 0 and not uno.errores
    eco.esperar('Hola Server!')
