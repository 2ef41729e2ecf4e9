"""`python -m tests.rendimiento [ESCENARIO…] [--rapido] [--svg ARCHIVO]`, desde la carpeta del proyecto.

Termina con 0 si todo llegó, una vez y en orden; con 1, si no; con 2, si no entiende la orden. Los objetivos que no se
cumplen se dicen, pero no cambian el código: dependen de la máquina.
"""

import argparse
import signal
import sys
import time

from . import escenarios, grafica, informe, proceso

DESCRIPTORES = 10_200       # los que necesita el escenario de más clientes


class _Analizador(argparse.ArgumentParser):
    def error(self, message):
        message = message.replace('unrecognized arguments:', 'no conozco').replace(
            'expected one argument', 'falta su valor').replace('argument ', '')
        self.exit(2, f'Error: {message}\nPara ver las opciones: python -m tests.rendimiento --ayuda\n')


def leer_orden():
    analizador = _Analizador(prog='python -m tests.rendimiento', add_help=False, allow_abbrev=False,
                             usage=argparse.SUPPRESS,
                             formatter_class=argparse.RawDescriptionHelpFormatter, description=(
                                 'Uso: python -m tests.rendimiento [ESCENARIO…] [--rapido] [--svg ARCHIVO]\n\n'
                                 'Mide el servidor contra otros. Sin nombres, hace todos los escenarios.\n\n'
                                 + '\n'.join(f'  {nombre:<12} {funcion.__doc__}'
                                             for nombre, funcion in escenarios.ESCENARIOS.items())))
    opciones = analizador.add_argument_group('Opciones')
    opciones.add_argument('escenarios', nargs='*', metavar='ESCENARIO', help=argparse.SUPPRESS)
    opciones.add_argument('--rapido', action='store_true',
                          help='menos de todo, en menos de medio minuto; sin diez_mil ni algunos rivales')
    opciones.add_argument('--svg', metavar='ARCHIVO', help='escribe también la gráfica de rafaga y orador')
    opciones.add_argument('-h', '--help', '--ayuda', action='help', help='muestra esta ayuda')
    orden = analizador.parse_args()
    for nombre in orden.escenarios:
        if nombre not in escenarios.ESCENARIOS:
            analizador.error(f'no conozco el escenario «{nombre}»; los hay: {", ".join(escenarios.ESCENARIOS)}')
    orden.escenarios = orden.escenarios or list(escenarios.ESCENARIOS)
    if orden.svg and not {'rafaga', 'orador'} & set(orden.escenarios):
        analizador.error('--svg dibuja rafaga y orador, y ninguno está entre los escenarios pedidos')
    return orden


def avisar(texto):
    print(texto, file=sys.stderr, flush=True)


def interrumpir(*_):
    raise KeyboardInterrupt


def medir(nombres, rapido):
    medidas, inicio = [], time.monotonic()
    for nombre in nombres:
        avisar(f'[{time.monotonic() - inicio:4.0f} s] {nombre}: {escenarios.ESCENARIOS[nombre].__doc__}…')
        for medida in escenarios.ESCENARIOS[nombre](rapido):
            medidas.append(medida)
            avisar(f'[{time.monotonic() - inicio:4.0f} s]   {informe.nombre(medida)}: {informe.progreso(medida)}')
    return medidas


def main():
    for salida in (sys.stdout, sys.stderr):
        salida.reconfigure(errors='replace')
    orden = leer_orden()
    # explícitas: con `&` en un guion SIGINT llega ignorada, y sin ellas SIGTERM dejaría servidores en marcha
    for senal in ('SIGINT', 'SIGTERM', 'SIGHUP'):
        if hasattr(signal, senal):
            signal.signal(getattr(signal, senal), interrumpir)
    if proceso.subir_limite_de_descriptores() < DESCRIPTORES:
        avisar(f'Aviso: el límite de archivos abiertos no llega a {DESCRIPTORES}; algún escenario puede no caber.')
    maquina = proceso.maquina()
    avisar(f'Máquina: {maquina}')
    try:
        medidas = medir(orden.escenarios, orden.rapido)
    except KeyboardInterrupt:
        avisar('Interrumpido: los servidores quedan parados.')
        return 130
    print(f'\n{maquina}\n\n{informe.tabla(medidas)}\n')
    print('CPU: parte de un núcleo, mientras corría el reloj. nosotros/rival: de velocidad en rafaga y orador; donde')
    print('el ritmo es fijo, de latencia p50 (menos es mejor).')
    con_prioridad = any(medida.get('prioridad') for medida in medidas)
    prioridad = 'con prioridad sobre' if con_prioridad else 'con la misma prioridad que'
    print(f'El generador corre {prioridad} los servidores, con todos por igual.\n')
    print(f'Objetivos:\n{informe.texto_objetivos(medidas)}\n')
    if orden.svg:
        try:
            with open(orden.svg, 'w', encoding='utf-8') as archivo:
                archivo.write(grafica.dibujar(medidas, maquina))
            print(f'Gráfica: {orden.svg}')
        except (OSError, ValueError) as error:
            avisar(f'No se pudo hacer la gráfica: {error}')
    fallos = informe.errores(medidas)
    if fallos:
        print('HAY ERRORES:')
        print('\n'.join('  ' + fallo for fallo in fallos))
        return 1
    print('Cada mensaje llegó una vez, y en el mismo orden para todos.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
