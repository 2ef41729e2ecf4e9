"""Lo que hace falta para esperar a varios sockets y para cerrarlos; casi todo lo comparten el servidor y el cliente."""

import socket

# Los sockets de la sala bloquean al leer y no al escribir. Windows no tiene MSG_DONTWAIT: allí no bloquean nunca, y se
# espera con un selector antes de leer.
SIN_ESPERA = getattr(socket, 'MSG_DONTWAIT', 0)


class Despertador:
    """Saca a un hilo de su espera en `select` o en un selector, con lo único que vale también en Windows: sockets."""

    def __init__(self):
        self.lectura, self.escritura = socket.socketpair()
        self.lectura.setblocking(False)
        self.escritura.setblocking(False)

    def tocar(self):
        try:
            self.escritura.send(b'!')
        except OSError:
            pass    # ya tiene toques de sobra, o su hilo ha terminado

    def atender(self):
        try:
            self.lectura.recv(4096)
        except BlockingIOError:
            pass

    def cerrar(self):
        self.lectura.close()
        self.escritura.close()


def apagar(conexion, sentido=socket.SHUT_RDWR):
    """`shutdown` de un socket que el otro lado puede haber cortado ya."""
    try:
        conexion.shutdown(sentido)
    except OSError:
        pass
