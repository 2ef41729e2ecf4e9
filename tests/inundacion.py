"""`python -m tests.inundacion [--segundos N]`: cuánto notan los demás que alguien envíe tan deprisa como puede.

Tres personas charlan en un servidor con el ritmo por omisión. Se mide lo que tarda cada mensaje en llegar a las otras
dos, a ratos sin nadie más y a ratos con quien inunda, alternados para que el ruido de la máquina toque a los dos.
"""

import argparse
import contextlib
import io
import statistics

from tests.asedio import asedio, sin_parar

LINEAS = {'mensajes': b'hola\n', 'vacías': b'\n', '#VIVO': b'#VIVO\n', 'órdenes': b'/usuarios\n', 'largas': b'x' * 5000 + b'\n'}
RATOS = 5       # de cada clase


def medir(linea, rondas):
    """Las demoras en segundos, sin y con quien inunda de `linea`."""
    quietas, inundadas = [], []
    with contextlib.redirect_stdout(io.StringIO()), asedio() as caso:       # la consola del servidor no hace falta aquí
        for rato in range(RATOS):
            quietas += caso.tertulia.demoras_de(rondas)
            inunda = caso.persona(f'inunda{rato}')
            with sin_parar(inunda, lambda: inunda.enviar(linea * 1000)):
                inundadas += caso.tertulia.demoras_de(rondas)
            caso.tertulia.oyen(f'* inunda{rato} salió.')
            caso.tertulia.olvidar_lo_ajeno()
    return quietas, inundadas


def en_ms(demoras):
    return f'{statistics.median(demoras) * 1000:6.2f} / {statistics.quantiles(demoras, n=100)[-1] * 1000:6.2f}'


def main():
    analizador = argparse.ArgumentParser(prog='python -m tests.inundacion', description=__doc__.partition(':')[2].strip())
    analizador.add_argument('--segundos', type=int, default=3, help='de cada rato (3)')
    rondas = round(analizador.parse_args().segundos / 0.06)
    print(f'{"inunda de":<10} {"sin él, p50 / p99 (ms)":>24} {"con él, p50 / p99 (ms)":>24} {"razón de p50":>14}')
    for nombre, linea in LINEAS.items():
        quietas, inundadas = medir(linea, rondas)
        razon = statistics.median(inundadas) / statistics.median(quietas)
        print(f'{nombre:<10} {en_ms(quietas):>24} {en_ms(inundadas):>24} {razon:>14.2f}', flush=True)


if __name__ == '__main__':
    main()
