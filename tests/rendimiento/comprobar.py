"""La comprobación, con el reloj ya parado: cada mensaje, una vez, y en el mismo orden para todos.

La referencia es lo que recibió un cliente que no envía (el testigo). De ella se comprueba que las líneas de cada autor
están todas y en su orden; de cada otro cliente, que lo suyo es, byte a byte, la referencia sin sus líneas.
Con eso no queda nada por comprobar línea a línea, y comparar gigabytes lleva un par de segundos.

La latencia sale de lo mismo: cada lectura dejó su hora y cuántos bytes iban, y el número de cada mensaje dice a qué
hora debía salir.
"""

from collections import Counter

from .rivales import bloque_de_techo
from .servidores import nick, texto

RESOLUCION = 10_000         # ns: las latencias se cuentan de 10 en 10 µs
BLOQUE = 1 << 18            # bytes que se comparan de una vez: caben en la caché
MAX_ERRORES = 3             # los primeros, con detalle; de los demás, cuántos son


def comprobar(generador, terminado):
    """Las cuentas de la medida: `entregas`, `errores` (lista de frases), `p50`, `p99` y `max` (ms) si hubo ritmo."""
    plan, ancho = generador.plan, generador.ancho
    receptores = generador.receptores()
    cuentas = {'entregas': sum(cliente.posicion for cliente in receptores) // ancho, 'errores': [],
               'retraso': generador.retraso / 1e6}
    if not plan.mensajes:
        return cuentas
    if plan.techo:
        errores = _errores_de_techo(generador, receptores)
    else:
        referencia = _Referencia(generador, receptores[-1])
        errores = referencia.errores(terminado)
        for cliente in receptores[:-1]:
            error = referencia.comparar(cliente, terminado)
            if error:
                errores.append(error)
        if plan.ritmo and not errores and terminado:
            cuentas.update(_latencias(generador, referencia, receptores))
    cuentas['errores'] = errores[:MAX_ERRORES]
    if len(errores) > MAX_ERRORES:
        cuentas['errores'].append(f'y {len(errores) - MAX_ERRORES} clientes más con errores')
    return cuentas


def _errores_de_techo(generador, receptores):
    bloque = bloque_de_techo(generador.ancho)
    errores = []
    for cliente in receptores:
        recibido = bytes(cliente.memoria[:cliente.posicion])
        if recibido != (bloque * (cliente.meta // len(bloque) + 1))[:cliente.meta]:
            errores.append(f'el cliente {cliente.indice} recibe {cliente.posicion} bytes y se le envían {cliente.meta}')
    return errores


class _Referencia:
    """El orden común: lo que recibió el testigo, y qué líneas son de quién."""

    def __init__(self, generador, testigo):
        self.generador, self.testigo, self.ancho = generador, testigo, generador.ancho
        self.bytes = bytes(testigo.memoria[:testigo.posicion])
        self.posiciones = {}        # autor → dónde empieza cada una de sus líneas
        for posicion in range(0, len(self.bytes) - self.ancho + 1, self.ancho):
            # las dos formas de entrega empiezan por un signo y el nick: [c00042] y :c00042!
            autor = self.bytes[posicion + 2:posicion + 7]
            self.posiciones.setdefault(int(autor) if autor.isdigit() else None, []).append(posicion)

    def errores(self, terminado):
        errores = []
        for indice in range(self.generador.plan.emisores):
            recibido = b''.join([self.bytes[desde:desde + self.ancho] for desde in self.posiciones.get(indice, ())])
            enviado = b''.join(self.lineas_de(indice))
            if recibido != enviado[:len(recibido)] or (terminado and len(recibido) != len(enviado)):
                errores.append(f'al testigo, de lo que dice el cliente {indice}, '
                               + _explicar(recibido, enviado))
        if None in self.posiciones or len(self.posiciones) > self.generador.plan.emisores:
            ajena = next((trozo for trozo in self.bytes.split(b'\n') if trozo.startswith(b'* ')), b'')
            errores.append('al testigo le llegan líneas que no son de nadie: ' + ajena[:80].decode('utf-8', 'replace'))
        return errores

    def lineas_de(self, indice):
        entrega = self.generador.plan.idioma.entrega
        return [entrega.format(nick=nick(indice), texto=texto(numero)).encode()
                for numero in self.generador.numeros(indice)]

    def sin(self, indice):
        """La referencia sin las líneas del cliente `indice`, en bloques de `BLOQUE` bytes o algo más."""
        trozos, tamano, desde = [], 0, 0
        for posicion in [*self.posiciones.get(indice, ()), len(self.bytes)]:
            while desde < posicion:
                hasta = min(posicion, desde + BLOQUE)
                trozos.append(self.bytes[desde:hasta])
                tamano += hasta - desde
                desde = hasta
                if tamano >= BLOQUE:
                    yield b''.join(trozos)
                    trozos, tamano = [], 0
            desde = posicion + self.ancho
        yield b''.join(trozos)

    def comparar(self, cliente, terminado):
        """`None` si `cliente` recibió lo mismo que el testigo menos lo suyo; si no, una frase que dice en qué difiere.

        Si la medida no terminó, basta con que lo recibido coincida hasta donde llega.
        """
        desde, quedan = 0, cliente.posicion
        for esperado in self.sin(cliente.indice):
            hasta = min(desde + len(esperado), quedan)
            recibido = bytes(cliente.memoria[desde:hasta])
            if recibido != (esperado if terminado else esperado[:len(recibido)]):
                break
            desde = hasta
        else:
            if desde == quedan or not terminado:
                return None
        return f'al cliente {cliente.indice}, ' + _explicar(bytes(cliente.memoria[:quedan]),
                                                            b''.join(self.sin(cliente.indice)))


def _explicar(recibido, esperado):
    """En qué difieren dos series de líneas, contadas."""
    tengo, quiero = Counter(recibido.split(b'\n')[:-1]), Counter(esperado.split(b'\n')[:-1])
    faltan = sum((quiero - tengo).values())
    repetidas = sum(veces - 1 for linea, veces in tengo.items() if linea in quiero)
    ajenas = [linea for linea in tengo if linea not in quiero]
    partes = []
    if faltan:
        partes.append(f'le faltan {faltan} líneas')
    if repetidas:
        partes.append(f'le llegan {repetidas} repetidas')
    if ajenas:
        partes.append(f'le llegan {len(ajenas)} que no esperaba, como «{ajenas[0][:80].decode("utf-8", "replace")}»')
    return ', '.join(partes) or 'le llegan en otro orden'


def _latencias(generador, referencia, receptores):
    """De todos los receptores y mensajes, desde la hora prevista de envío hasta la lectura que lo completa."""
    ancho, cada = generador.ancho, 1e9 / generador.plan.ritmo
    inicio_texto = generador.plan.idioma.entrega.format(nick=nick(0), texto='\0').index('\0')
    autores, salidas = [], []
    for posicion in range(0, len(referencia.bytes), ancho):
        autores.append(int(referencia.bytes[posicion + 2:posicion + 7]))
        numero = int(referencia.bytes[posicion + inicio_texto:posicion + inicio_texto + 8])
        salidas.append(generador.inicio + int(numero * cada))
    cuenta = Counter()
    for cliente in receptores:
        suyas = [salida for salida, autor in zip(salidas, autores) if autor != cliente.indice]
        desde = 0
        for hora, corte in zip(cliente.horas, cliente.cortes):
            hasta = corte // ancho
            cuenta.update([(hora - salida) // RESOLUCION for salida in suyas[desde:hasta]])
            desde = hasta
    return _percentiles(cuenta)


def _percentiles(cuenta):
    total, vistos, valores = sum(cuenta.values()), 0, {}
    for latencia in sorted(cuenta):
        vistos += cuenta[latencia]
        for nombre, parte in (('p50', 0.5), ('p99', 0.99), ('max', 1)):
            if vistos >= total * parte:
                valores.setdefault(nombre, (latencia + 1) * RESOLUCION / 1e6)
    return valores
