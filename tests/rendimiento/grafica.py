"""La gráfica: barras con las entregas por segundo, en escala logarítmica, escritas en SVG sin bibliotecas.

El fondo es transparente y los colores cambian con el tema de quien mira (`prefers-color-scheme`).
"""

import math
from xml.sax.saxutils import escape

from .informe import cifra

TITULOS = {'rafaga': 'Ráfaga: 100 clientes envían a la vez', 'orador': 'Orador: envía uno de 100 clientes'}
ANCHO, IZQUIERDA, DERECHA = 760, 110, 90
ALTO_BARRA, PASO, CABECERA, TITULO_GRUPO, PIE = 20, 28, 52, 34, 58

ESTILO = """\
    text { font: 14px system-ui, sans-serif; fill: #24292f; }
    .titulo { font-size: 18px; font-weight: 600; }
    .grupo { font-weight: 600; }
    .pie, .eje { font-size: 12px; fill: #57606a; }
    .valor { font-variant-numeric: tabular-nums; }
    .nosotros { fill: #1a7f37; }
    .rival { fill: #8c959f; }
    .regla { stroke: #8c959f; stroke-opacity: .35; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .pie, .eje { fill: #9da7b1; }
      .nosotros { fill: #3fb950; }
      .rival { fill: #6e7681; }
    }"""


def dibujar(medidas, maquina):
    """El texto SVG de las medidas de ráfaga y orador. `ValueError` si no hay ninguna."""
    grupos = []
    for escenario, titulo in TITULOS.items():
        filas = sorted(((medida['velocidad'], medida['servidor']) for medida in medidas
                        if medida['escenario'] == escenario and medida.get('velocidad') and not medida['errores']),
                       reverse=True)
        if filas:
            grupos.append((titulo, filas))
    if not grupos:
        raise ValueError('para la gráfica hacen falta medidas de rafaga o de orador')
    velocidades = [velocidad for _, filas in grupos for velocidad, _ in filas]
    # una década más por abajo: la barra más corta también ha de verse
    desde, hasta = math.floor(math.log10(min(velocidades) / 2)), math.ceil(math.log10(max(velocidades)))

    def equis(velocidad):
        return IZQUIERDA + (math.log10(velocidad) - desde) / (hasta - desde) * (ANCHO - IZQUIERDA - DERECHA)

    alto = CABECERA + sum(TITULO_GRUPO + PASO * len(filas) for _, filas in grupos) + PIE
    fondo = alto - PIE + 4
    piezas = []
    for decada in range(desde, hasta + 1):
        x = equis(10 ** decada)
        piezas.append(f'<line class="regla" x1="{x:.1f}" y1="{CABECERA - 6}" x2="{x:.1f}" y2="{fondo}"/>')
        piezas.append(f'<text class="eje" x="{x:.1f}" y="{fondo + 16}" text-anchor="middle">'
                      f'{_corto(10 ** decada)}</text>')
    y = CABECERA
    for titulo, filas in grupos:
        piezas.append(f'<text class="grupo" x="12" y="{y + 18}">{escape(titulo)}</text>')
        y += TITULO_GRUPO
        for velocidad, servidor in filas:
            clase = 'nosotros' if servidor == 'nosotros' else 'rival'
            x = equis(velocidad)
            piezas.append(f'<text x="{IZQUIERDA - 10}" y="{y + 15}" text-anchor="end">{escape(servidor)}</text>')
            piezas.append(f'<rect class="{clase}" x="{IZQUIERDA}" y="{y}" width="{x - IZQUIERDA:.1f}" '
                          f'height="{ALTO_BARRA}" rx="3"/>')
            piezas.append(f'<text class="valor" x="{x + 8:.1f}" y="{y + 15}">{_corto(velocidad)}</text>')
            y += PASO
    descripcion = '. '.join(
        titulo + '. ' + ', '.join(f'{servidor}: {_corto(velocidad)}' for velocidad, servidor in filas)
        for titulo, filas in grupos)
    cuerpo = '\n  '.join(piezas)
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" width="{ANCHO}" height="{alto}" viewBox="0 0 {ANCHO} {alto}" role="img" \
aria-labelledby="titulo descripcion">
  <title id="titulo">Entregas por segundo</title>
  <desc id="descripcion">{escape(descripcion)}.</desc>
  <style>
{ESTILO}
  </style>
  <text class="titulo" x="12" y="28">Entregas por segundo (escala logarítmica; más es mejor)</text>
  {cuerpo}
  <text class="pie" x="12" y="{alto - 12}">{escape(maquina)}</text>
</svg>
"""


def _corto(numero):
    if numero >= 1e6:
        return cifra(numero, 0 if numero >= 1e7 else 1, 1e-6, ' M').replace(',0 M', ' M')
    if numero >= 1e3:
        return cifra(numero, 0, 1e-3, ' mil')
    return cifra(numero, 0)
