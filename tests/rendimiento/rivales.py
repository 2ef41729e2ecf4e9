"""Servidores con los que compararse, cada uno como se suele escribir. `python -m tests.rendimiento.rivales NOMBRE`

Hablan lo justo del protocolo de la sala: la primera línea es el nick, se responde `* Tu nick es NICK`, y cada línea
que sigue se entrega a todos los demás como `[nick] texto`, en un mismo orden para todos y sin perder nada.

    hilos        un hilo por cliente, que envía a los demás con `sendall` bajo un cerrojo: el de todos los tutoriales
    asyncio      una corrutina por cliente, con `write` a los demás y `drain`
    selectores   un solo hilo, con un selector y un búfer de salida por cliente
    techo        no es un servidor: bloques ya hechos a N sockets. Es lo que los sockets dan de sí desde Python
"""

import asyncio
import selectors
import socket
import sys
import threading

COLA = 4096                 # conexiones por aceptar
MAX_SALIDA = 1 << 20        # bytes sin enviar a un cliente con los que `selectores` deja de leer: nada se pierde
BLOQUE = 64 * 1024          # bytes de cada bloque de `techo`


def anunciar(escucha):
    print('Escuchando en {}:{}'.format(*escucha.getsockname()[:2]), flush=True)


def escuchar():
    return socket.create_server(('127.0.0.1', 0), backlog=COLA)


# ── hilos ────────────────────────────────────────────────────────────────────────────────────────────────────────

def servir_con_hilos():
    conexiones = []
    cerrojo = threading.Lock()      # guarda la lista, y da a todos el mismo orden

    def atender(conexion):
        archivo = conexion.makefile('rb')
        try:
            nick = archivo.readline().strip()
            with cerrojo:
                conexiones.append(conexion)
                conexion.sendall(b'* Tu nick es ' + nick + b'\n')
            for linea in archivo:
                mensaje = b'[' + nick + b'] ' + linea
                with cerrojo:
                    for otra in conexiones:
                        if otra is not conexion:
                            otra.sendall(mensaje)
        except OSError:
            pass    # un corte es una salida
        finally:
            with cerrojo:
                if conexion in conexiones:
                    conexiones.remove(conexion)
            conexion.close()

    escucha = escuchar()
    anunciar(escucha)
    while True:
        conexion, _ = escucha.accept()
        conexion.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=atender, args=(conexion,), daemon=True).start()


# ── asyncio ──────────────────────────────────────────────────────────────────────────────────────────────────────

def servir_con_asyncio():
    escritores = set()

    async def atender(lector, escritor):
        try:
            nick = (await lector.readline()).strip()
            escritores.add(escritor)
            escritor.write(b'* Tu nick es ' + nick + b'\n')
            while linea := await lector.readline():
                mensaje = b'[' + nick + b'] ' + linea
                otros = [otro for otro in escritores if otro is not escritor]
                for otro in otros:      # sin `await` entre medias: el orden es el mismo para todos
                    otro.write(mensaje)
                for otro in otros:
                    try:
                        await otro.drain()
                    except ConnectionError:
                        escritores.discard(otro)
        except ConnectionError:
            pass    # un corte es una salida
        finally:
            escritores.discard(escritor)
            escritor.close()

    async def servir():
        escucha = escuchar()
        servidor = await asyncio.start_server(atender, sock=escucha, backlog=COLA)
        anunciar(escucha)
        await servidor.serve_forever()

    asyncio.run(servir())


# ── selectores ───────────────────────────────────────────────────────────────────────────────────────────────────

class _Par:
    """Una conexión de `selectores`: lo leído que aún no es una línea, y lo que falta por enviarle."""

    def __init__(self, conexion):
        self.conexion, self.nick, self.entrada, self.salida = conexion, None, b'', bytearray()
        self.sucesos = 0        # los que vigila el selector


class _Selectores:
    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.pares = set()
        self.escucha = escuchar()
        self.escucha.setblocking(False)
        self.selector.register(self.escucha, selectors.EVENT_READ)

    def servir(self):
        anunciar(self.escucha)
        while True:
            for clave, sucesos in self.selector.select():
                if clave.data is None:
                    self.aceptar()
                    continue
                if sucesos & selectors.EVENT_WRITE:
                    self.vaciar(clave.data)
                if sucesos & selectors.EVENT_READ and clave.data in self.pares:
                    self.leer(clave.data)
            atascado = any(len(par.salida) > MAX_SALIDA for par in self.pares)
            for par in self.pares:
                sucesos = (0 if atascado else selectors.EVENT_READ) | (selectors.EVENT_WRITE if par.salida else 0)
                self.vigilar(par, sucesos)

    def vigilar(self, par, sucesos):
        if sucesos == par.sucesos:
            return
        if not par.sucesos:
            self.selector.register(par.conexion, sucesos, par)
        elif not sucesos:
            self.selector.unregister(par.conexion)
        else:
            self.selector.modify(par.conexion, sucesos, par)
        par.sucesos = sucesos

    def aceptar(self):
        conexion, _ = self.escucha.accept()
        conexion.setblocking(False)
        conexion.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pares.add(_Par(conexion))

    def leer(self, par):
        try:
            datos = par.conexion.recv(BLOQUE)
        except OSError:
            datos = b''
        if not datos:
            self.cerrar(par)
            return
        *lineas, par.entrada = (par.entrada + datos).split(b'\n')
        if lineas and par.nick is None:
            par.nick = lineas.pop(0).strip()
            par.salida += b'* Tu nick es ' + par.nick + b'\n'
        mensajes = b''.join([b'[' + par.nick + b'] ' + linea + b'\n' for linea in lineas])
        if mensajes:
            for otro in self.pares:
                if otro is not par and otro.nick is not None:
                    otro.salida += mensajes

    def vaciar(self, par):
        try:
            enviados = par.conexion.send(par.salida)
        except BlockingIOError:
            return
        except OSError:
            self.cerrar(par)
            return
        del par.salida[:enviados]

    def cerrar(self, par):
        self.vigilar(par, 0)
        self.pares.discard(par)
        par.conexion.close()


# ── techo ────────────────────────────────────────────────────────────────────────────────────────────────────────

def bloque_de_techo(ancho):
    """Unos 64 KiB de líneas enteras de `ancho` bytes, todas distintas."""
    return b''.join([b'%08d ' % numero + b'.' * (ancho - 10) + b'\n' for numero in range(BLOQUE // ancho)])


def enviar_techo(clientes, total, ancho):
    """Espera a `clientes` conexiones y a que la primera diga algo; a cada una de las demás envía `total` bytes."""
    bloque = memoryview(bloque_de_techo(ancho))
    escucha = escuchar()
    anunciar(escucha)
    conexiones = [escucha.accept()[0] for _ in range(clientes)]
    conexiones[0].recv(1)
    enviados = {}
    selector = selectors.DefaultSelector()
    for conexion in conexiones[1:]:
        conexion.setblocking(False)
        enviados[conexion] = 0
    libres = list(enviados)
    while enviados:
        siguientes = []
        for conexion in libres:
            hecho = enviados[conexion]
            desde = hecho % len(bloque)
            try:
                hecho += conexion.send(bloque[desde:desde + min(total - hecho, len(bloque))])
            except BlockingIOError:
                selector.register(conexion, selectors.EVENT_WRITE)
                continue
            enviados[conexion] = hecho
            if hecho == total:
                del enviados[conexion]
            else:
                siguientes.append(conexion)
        libres = siguientes
        if len(libres) < len(enviados):
            for clave, _ in selector.select(0 if libres else None):
                selector.unregister(clave.fileobj)
                libres.append(clave.fileobj)
    conexiones[0].recv(1)       # hasta que se va: cerrar antes podría borrar lo último enviado


SERVIDORES = {'hilos': servir_con_hilos, 'asyncio': servir_con_asyncio, 'selectores': lambda: _Selectores().servir()}


if __name__ == '__main__':
    if sys.argv[1] == 'techo':
        enviar_techo(*map(int, sys.argv[2:]))
    else:
        SERVIDORES[sys.argv[1]]()
