"""`python -m tests [argumentos de pytest]`: pasa las pruebas sin más requisito que Python 3.10 y, la primera vez, red.

Si este Python ya tiene las versiones de `requirements.txt`, las usa. Si no, se las instala en `.venv/pyX.Y`, dentro
del proyecto: el Python del sistema no se toca (muchos no se dejan, PEP 668). Termina con el código de pytest.
"""

import os
import subprocess
import sys
from pathlib import Path

RAIZ = Path(__file__).resolve().parent.parent
REQUISITOS = RAIZ / 'tests' / 'requirements.txt'
ENTORNO = RAIZ / '.venv' / 'py{}.{}'.format(*sys.version_info)
COMPLETO = ENTORNO / 'completo.txt'     # se escribe lo último: sin él, la instalación quedó a medias

# Variables que harían que otro Python, u otros paquetes, se colaran en el nuestro.
_ESTORBAN = ('PYTHONPATH', 'PYTHONHOME', 'PYTHONSTARTUP', 'PYTHONSAFEPATH', 'VIRTUAL_ENV', '__PYVENV_LAUNCHER__',
             'PIP_USER', 'PIP_TARGET', 'PIP_PREFIX', 'PIP_ROOT', 'PIP_REQUIRE_VIRTUALENV', 'PIP_PYTHON')


class Fallo(Exception):
    """Algo que impide pasar las pruebas; su texto dice qué hacer."""


def main(argumentos):
    if sys.version_info < (3, 10):
        raise Fallo('Hace falta Python 3.10 o posterior; este es el {}.{}.'.format(*sys.version_info))
    variables = {nombre: valor for nombre, valor in os.environ.items() if nombre not in _ESTORBAN}
    python = sys.executable
    if not tiene_lo_necesario(python, variables):
        python = preparar_entorno(variables)
    return subprocess.call([python, '-m', 'pytest', *argumentos], cwd=RAIZ, env=variables)


def versiones():
    """Lo que pide `requirements.txt`: `{'pytest': '9.2.0', …}`."""
    lineas = [linea.partition('#')[0].strip() for linea in REQUISITOS.read_text(encoding='utf-8').splitlines()]
    return dict(linea.split('==') for linea in lineas if linea)


def tiene_lo_necesario(python, variables):
    """Si `python` arranca y puede importar justo esas versiones."""
    programa = ('import sys, pytest, pytest_timeout, importlib.metadata as m; '
                'sys.exit(any(m.version(n) != v for n, v in {!r}.items()))'.format(versiones()))
    try:
        return ejecutar([python, '-c', programa], variables).returncode == 0
    except OSError:
        return False


def preparar_entorno(variables):
    """El Python de `ENTORNO`, que se crea, o se rehace si no sirve."""
    python = str(ENTORNO / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python'))
    pedido = REQUISITOS.read_text(encoding='utf-8')
    if COMPLETO.is_file() and COMPLETO.read_text(encoding='utf-8') == pedido and tiene_lo_necesario(python, variables):
        return python
    print(f'Preparo {ENTORNO.relative_to(RAIZ)} para las pruebas (solo la primera vez)…', file=sys.stderr, flush=True)
    COMPLETO.unlink(missing_ok=True)
    creacion = ejecutar([sys.executable, '-m', 'venv', '--clear', str(ENTORNO)], variables)
    if creacion.returncode:
        raise Fallo(f'{final(creacion)}\n\nNo he podido crear {ENTORNO}.\n'
                    'En Debian o Ubuntu falta el paquete de venv: sudo apt install '
                    'python{}.{}-venv\n'.format(*sys.version_info)
                    + f'O instala tú lo que piden las pruebas: {REQUISITOS}')
    instalacion = ejecutar([python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-input',
                            '--retries', '1', '-r', str(REQUISITOS)], variables)
    if instalacion.returncode:
        raise Fallo(f'{final(instalacion)}\n\nNo he podido instalar lo que piden las pruebas ({REQUISITOS}).\n'
                    'La primera vez hace falta red. Cuando la haya, repite la misma orden.')
    COMPLETO.write_text(pedido, encoding='utf-8')
    return python


def ejecutar(orden, variables):
    return subprocess.run(orden, cwd=RAIZ, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors='replace')


def final(resultado):
    """Las últimas líneas de lo que dijo un programa: ahí suele estar la causa."""
    return '\n'.join(resultado.stdout.strip().splitlines()[-8:])


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except Fallo as fallo:
        sys.exit(f'{fallo}')
    except OSError as error:
        sys.exit(f'No puedo preparar las pruebas: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
