"""`python -m tests.captura ARCHIVO.svg`: una sesión de verdad, dibujada como se ve en la terminal de una persona.

Arranca el servidor y tres clientes en pseudoterminales, hace que hablen, y dibuja la pantalla de uno de ellos.
"""

import re
import sys
from html import escape

from editor import anchura
from tests.procesos import Proceso

ANCHO, ALTO = 84, 15
LETRA, RENGLON = 8.4, 19
FONDO, TINTA = '#1c1c1c', '#d8d8d8'


def main():
    if len(sys.argv) != 2:
        print('Uso: python -m tests.captura ARCHIVO.svg', file=sys.stderr)
        return 2
    procesos = []

    def lanzar(*argumentos, **opciones):
        procesos.append(Proceso(*argumentos, **opciones))
        return procesos[-1]

    try:
        pantalla = conversar(lanzar)
        with open(sys.argv[1], 'w', encoding='utf-8') as archivo:
            archivo.write(dibujar(pantalla))
    finally:
        for proceso in reversed(procesos):
            proceso.matar()
    return 0


def conversar(lanzar):
    """Una conversación entre tres, y la pantalla de Luis mientras escribe."""
    servidor = lanzar('server.py', '--puerto', 0)
    servidor.esperar('Escuchando en ')
    puerto = servidor.salida.split(':')[1].split()[0]
    ana, luis, eva = [lanzar('cliente.py', '--puerto', puerto, '--nick', nick, terminal=True, ancho=ANCHO, alto=ALTO)
                      for nick in ('ana', 'luis', 'eva')]
    for persona, nick in ((ana, 'ana'), (luis, 'luis'), (eva, 'eva')):
        persona.ver(lambda p, nick=nick: p.ultima() == f'[{nick}]')
    luis.ver(lambda p: p.contiene('Hola, luis'))

    def dice(persona, texto):
        persona.escribir(texto + '\n')
        if persona is not luis and not texto.startswith('/'):
            luis.ver(lambda p: p.contiene(texto))

    dice(ana, '¿Empezamos con el laboratorio de sockets?')
    dice(luis, 'Sí, ya tengo el servidor en marcha 🚀')
    ana.ver(lambda p: p.contiene('en marcha'))
    dice(eva, 'Una duda: ¿por qué recv no devuelve «un mensaje»?')
    dice(ana, 'Porque TCP es un río de bytes; luis, enséñale la clase Lineas')
    dice(eva, '/privado luis ¿me pasas el enlace?')
    luis.ver(lambda p: p.contiene('enlace'))
    dice(eva, '你好, y gracias')
    luis.escribir('Mira protocolo.py: guarda lo incompleto y')
    luis.ver(lambda p: p.ultima().endswith('incompleto y'))
    return luis.pantalla


def dibujar(pantalla):
    """La pantalla como SVG, con sus colores y su cursor."""
    ancho, alto = ANCHO * LETRA + 24, ALTO * RENGLON + 24
    partes = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{ancho:.0f}" height="{alto}" role="img">',
              '<title>Una charla vista desde la terminal de Luis</title>',
              f'<rect width="100%" height="100%" rx="8" fill="{FONDO}"/>',
              '<g font-family="ui-monospace, Menlo, Consolas, monospace" font-size="14" xml:space="preserve">']
    x, y = 12 + pantalla.x * LETRA, 14 + pantalla.y * RENGLON
    partes.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{LETRA}" height="{RENGLON - 2}" fill="{TINTA}"/>')
    for numero, fila in enumerate(pantalla.celdas):
        for columna, texto, estilo in tramos(fila):
            partes.append(tramo_svg(12 + columna * LETRA, 12 + numero * RENGLON, texto, estilo))
    return '\n'.join([*partes, '</g>', '</svg>', ''])


def tramos(fila):
    """La fila en trozos seguidos del mismo estilo: `(columna, texto, estilo)`."""
    tramo, inicio = '', 0
    for columna, (caracter, estilo) in enumerate([*fila, ('', None)]):
        if tramo and estilo != fila[inicio][1]:
            if tramo.strip():
                yield inicio, tramo, fila[inicio][1]
            tramo = ''
        if not tramo:
            inicio = columna
        tramo += caracter


def tramo_svg(x, y, texto, estilo):
    codigos = estilo.rstrip(';').split(';') if estilo else []
    color = re.search(r'38;5;(\d+)', estilo)
    tinta = color_rgb(int(color.group(1))) if color else TINTA
    if color:
        del codigos[codigos.index('38'):codigos.index('38') + 3]
    atributos = [f'fill="{tinta}"']
    fondo = ''
    if '7' in codigos:
        fondo = f'<rect x="{x:.1f}" y="{y + 2:.1f}" width="{len(texto) * LETRA:.1f}" height="{RENGLON - 2}" fill="{tinta}"/>'
        atributos = [f'fill="{FONDO}"']
    for codigo, atributo in (('1', 'font-weight="bold"'), ('2', 'opacity="0.65"'), ('3', 'font-style="italic"'),
                             ('4', 'text-decoration="underline"')):
        if codigo in codigos:
            atributos.append(atributo)
    texto = texto.rstrip()
    # con la anchura escrita, las columnas casan con cualquier letra que tenga quien lo mire
    return (f'{fondo}<text x="{x:.1f}" y="{y + 15:.1f}" textLength="{anchura(texto) * LETRA:.1f}" '
            f'{" ".join(atributos)}>{escape(texto)}</text>')


def color_rgb(numero):
    niveles, numero = (0, 95, 135, 175, 215, 255), numero - 16
    return '#{:02x}{:02x}{:02x}'.format(niveles[numero // 36], niveles[numero // 6 % 6], niveles[numero % 6])


if __name__ == '__main__':
    sys.exit(main())
