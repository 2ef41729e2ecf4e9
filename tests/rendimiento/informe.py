"""El informe: una tabla con todas las medidas, los objetivos con su resultado, y qué se considera un error."""

from .escenarios import ESCENARIOS

CABECERA = ('servidor', 'caso', 'M entregas/s', 'p50 ms', 'p99 ms', 'máx ms', 'nosotros/rival', 'CPU serv.',
            'CPU gener.', 'notas')
SIN_DATO = '—'
COMPARADO = {'rafaga': 'velocidad', 'orador': 'velocidad', 'charla': 'p50', 'mil': 'p50', 'diez_mil': 'p50'}


def errores(medidas):
    """Una frase por cada medida en la que algo se perdió, se repitió o se desordenó, o en la que fallamos nosotros."""
    frases = []
    for medida in medidas:
        motivos = list(medida.get('errores', ()))
        if medida['servidor'] == 'nosotros':
            if medida.get('fallo'):
                motivos.append(medida['fallo'])
            elif not medida['terminado']:
                motivos.append('no termina a tiempo')
        frases += [f'{nombre(medida)}: {motivo}' for motivo in motivos]
    return frases


def nombre(medida):
    return ' '.join(filter(None, (medida['escenario'], medida['servidor'], medida['variante'])))


def tabla(medidas):
    """Las medidas en columnas, agrupadas por escenario."""
    grupos = [(escenario, [fila(medida, medidas) for medida in medidas if medida['escenario'] == escenario])
              for escenario in ESCENARIOS]
    anchos = [max(len(valor) for valor in columna)
              for columna in zip(CABECERA, *[una for _, filas in grupos for una in filas])]
    lineas = [_alinear(CABECERA, anchos)]
    for escenario, filas in grupos:
        if filas:
            lineas += ['', f'{escenario}: {ESCENARIOS[escenario].__doc__}']
            lineas += [_alinear(una, anchos) for una in filas]
    return '\n'.join(lineas)


def _alinear(valores, anchos):
    celdas = [valor.ljust(ancho) if posicion in (0, 1, len(anchos) - 1) else valor.rjust(ancho)
              for posicion, (valor, ancho) in enumerate(zip(valores, anchos))]
    return '  ' + '  '.join(celdas).rstrip()


def fila(medida, medidas):
    """Los textos de una línea de la tabla."""
    return (medida['servidor'], medida['variante'], cifra(medida.get('velocidad'), 2, 1e-6),
            *[cifra(medida.get(clave), 2) for clave in ('p50', 'p99', 'max')], cifra(_razon(medida, medidas), 2),
            *[cifra(uso(medida, clave), 0, 100, ' %') for clave in ('cpu_servidor', 'cpu_generador')], _notas(medida))


def cifra(valor, decimales, escala=1.0, unidad=''):
    """`valor` por `escala`, con coma decimal; una raya si no lo hay."""
    if valor is None:
        return SIN_DATO
    return f'{valor * escala:,.{decimales}f}'.translate(str.maketrans(',.', '.,')) + unidad


def uso(medida, clave):
    """Parte de un núcleo gastada mientras corría el reloj; `None` si no se sabe."""
    gasto, duracion = medida.get(clave), medida.get('duracion')
    return gasto / duracion if gasto is not None and duracion else None


def _razon(medida, medidas):
    """Lo nuestro entre lo del rival: de velocidad o, si hay un ritmo fijo, de latencia p50 (ahí, menos es mejor)."""
    clave = COMPARADO.get(medida['escenario'])
    if medida['servidor'] == 'nosotros' or not medida.get(clave):
        return None
    nuestra = buscar(medidas, medida['escenario'], 'nosotros', medida['variante'])
    return nuestra[clave] / medida[clave] if nuestra and nuestra.get(clave) else None


def _notas(medida):
    if medida.get('fallo'):
        return medida['fallo']
    notas = []
    if medida['errores']:
        notas.append('ERROR: ' + '; '.join(medida['errores']))
    if not medida['terminado']:
        notas.append(f'no termina en {medida["plan"].get("limite", 30):g} s')
    escenario = medida['escenario']
    if medida['plan'].get('ritmo'):
        notas.append(f'el envío se atrasa hasta {cifra(medida["retraso"], 1)} ms')
    if escenario == 'diez_mil':
        notas.append(f'entran en {cifra(medida["entrada"], 1)} s; {cifra(por_cliente(medida), 1)} KiB por cliente')
    if escenario == 'detenidos' and medida['memoria_dentro']:
        crece = medida['memoria_despues'] - medida['memoria_dentro']
        notas.append(f'la memoria del servidor crece {cifra(crece, 1, 1 / 1024)} MiB')
    if escenario == 'reposo':
        notas.append(f'{cifra(uso(medida, "cpu_servidor"), 4, 100)} % de un núcleo; '
                     f'{cifra(medida["cambios"], 0)} cambios de contexto voluntarios')
    if escenario == 'crecimiento':
        notas.append(f'por entrega: {cifra(por_entrega(medida, "cpu_servidor"), 0)} ns de CPU del servidor, '
                     f'{cifra(por_entrega(medida, "duracion"), 0)} ns de reloj')
    return '; '.join(notas)


def por_cliente(medida):
    """KiB de memoria del servidor por cliente conectado."""
    if not medida.get('memoria_antes') or not medida.get('memoria_dentro'):
        return None
    return (medida['memoria_dentro'] - medida['memoria_antes']) / medida['plan']['clientes']


def por_entrega(medida, clave):
    return medida[clave] / medida['entregas'] if medida.get(clave) and medida.get('entregas') else None


def buscar(medidas, escenario, servidor, variante=''):
    """La medida pedida, si se hizo y llegó a dar resultado; si no, `None`."""
    return next((medida for medida in medidas if not medida.get('fallo')
                 and (medida['escenario'], medida['servidor'], medida['variante']) == (escenario, servidor, variante)),
                None)


# ── Los objetivos ────────────────────────────────────────────────────────────────────────────────────────────────

def objetivos(medidas):
    """`(qué, valor, si se cumple)` de cada objetivo del que hay medidas. Sin valor (`None`), no se pudo medir."""
    def dato(clave, *cual):
        medida = buscar(medidas, *cual)
        return medida.get(clave) if medida else None

    def razon(clave, *cuales):
        nuestro, otro = (dato(clave, *cual) for cual in cuales)
        return nuestro / otro if nuestro and otro else None

    def perdidas(escenario, variante=''):
        medida = buscar(medidas, escenario, 'nosotros', variante)
        return None if medida is None else len(medida['errores']) + (not medida['terminado'])

    rafaga, orador, mil, diez_mil = (('rafaga', 'nosotros'), ('orador', 'nosotros'), ('mil', 'nosotros'),
                                     ('diez_mil', 'nosotros'))
    lenta, viva = ('charla', 'nosotros', '1.000/s'), ('charla', 'nosotros', '10.000/s')
    multitud, callada = buscar(medidas, *diez_mil), buscar(medidas, 'reposo', 'nosotros')
    gasto = uso(callada, 'cpu_servidor') if callada else None
    lista = [
        ('rafaga', '≥ 80 veces asyncio', razon('velocidad', rafaga, ('rafaga', 'asyncio')), 80, 1),
        ('rafaga', '≥ 5 veces ngircd', razon('velocidad', rafaga, ('rafaga', 'ngircd')), 5, 1),
        ('orador', '≥ 0,6 del techo', razon('velocidad', orador, ('orador', 'techo')), 0.6, 1),
        ('charla', '1.000/s: p50 ≤ el de asyncio', razon('p50', lenta, ('charla', 'asyncio', '1.000/s')), 1, -1),
        ('charla', '1.000/s: p99 ≤ el de asyncio', razon('p99', lenta, ('charla', 'asyncio', '1.000/s')), 1, -1),
        ('charla', '10.000/s: nada perdido', perdidas('charla', '10.000/s'), 0, -1),
        ('charla', '10.000/s: p50 ≤ la mitad que ngircd', razon('p50', viva, ('charla', 'ngircd', '10.000/s')),
         0.5, -1),
        ('charla', '10.000/s: máx < 100 ms', dato('max', *viva), 100, -1),
        ('mil', 'nada perdido', perdidas('mil'), 0, -1),
        ('mil', 'máx < 150 ms', dato('max', *mil), 150, -1),
        ('diez_mil', 'todos dentro en 30 s', dato('entrada', *diez_mil), 30, -1),
        ('diez_mil', '≤ 40 KiB por cliente', por_cliente(multitud) if multitud else None, 40, -1),
        ('diez_mil', 'p99 < 300 ms', dato('p99', *diez_mil), 300, -1),
        ('diez_mil', 'nada perdido', perdidas('diez_mil'), 0, -1),
        ('detenidos', '≥ 0,95 de la velocidad sin ellos',
         razon('velocidad', ('detenidos', 'nosotros', '10 detenidos'), ('detenidos', 'nosotros', '0 detenidos')),
         0.95, 1),
        ('reposo', '< 0,1 % de un núcleo', None if gasto is None else gasto * 100, 0.1, -1),
    ]
    hechos = {medida['escenario'] for medida in medidas}
    return [(f'{escenario}: {que}', valor, None if valor is None else valor * sentido >= limite * sentido)
            for escenario, que, valor, limite, sentido in lista if escenario in hechos]


def texto_objetivos(medidas):
    lineas = []
    for que, valor, cumplido in objetivos(medidas):
        estado = 'sin medir   ' if cumplido is None else 'se cumple   ' if cumplido else 'NO SE CUMPLE'
        lineas.append(f'  {estado}  {que}' + ('' if valor is None else f' (medido: {cifra(valor, 3)})'))
    return '\n'.join(lineas)


def progreso(medida):
    """Lo que se dice en cuanto acaba una medida."""
    if medida.get('fallo'):
        return medida['fallo']
    partes = [cifra(medida.get('velocidad'), 2, 1e-6) + ' M entregas/s']
    if medida.get('p99'):
        partes.append(f'p50 {cifra(medida["p50"], 2)} ms, p99 {cifra(medida["p99"], 2)} ms')
    partes.append(_notas(medida))
    return '; '.join(filter(None, partes))

