"""Lo que el generador pide al sistema para no ser el límite: `epoll`, o lo que haya, y memoria ya tocada."""

import mmap
import select
import selectors

LEER, ESCRIBIR = 1, 4       # EPOLLIN y EPOLLOUT


def hacer_sondeo():
    """Un `select.epoll`, o algo que se usa igual."""
    return select.epoll() if hasattr(select, 'epoll') else _Portable()


def reservar(total):
    """`total` bytes de memoria, ya tocada: las páginas que se piden por primera vez salen caras, y no con el reloj."""
    if hasattr(mmap, 'MADV_HUGEPAGE'):
        memoria = mmap.mmap(-1, total, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memoria.madvise(mmap.MADV_HUGEPAGE)     # tocarla y llenarla cuesta varias veces menos
    else:
        memoria = mmap.mmap(-1, total)
    for pagina in range(0, total, mmap.PAGESIZE):
        memoria[pagina] = 0
    return memoria


def esperar(sondeo, segundos):
    """Hasta que haya algo que leer. El plazo de `epoll` va en milisegundos; el de `select`, en microsegundos."""
    if isinstance(sondeo, _Portable):
        sondeo.esperar(segundos)
    else:
        select.select([sondeo], [], [], segundos)


class _Portable:
    """Lo que se usa de `select.epoll`, donde no lo hay."""

    def __init__(self):
        self._selector = selectors.DefaultSelector()
        self.close = self._selector.close
        self.esperar = self._selector.select

    def register(self, fd, sucesos):
        self._selector.register(fd, self._traducir(sucesos))

    def modify(self, fd, sucesos):
        self._selector.modify(fd, self._traducir(sucesos))

    def unregister(self, fd):
        self._selector.unregister(fd)

    @staticmethod
    def _traducir(sucesos):
        return (selectors.EVENT_READ if sucesos & LEER else 0) | (selectors.EVENT_WRITE if sucesos & ESCRIBIR else 0)

    def poll(self, segundos, maximo=None):
        return [(clave.fd, (LEER if sucesos & selectors.EVENT_READ else 0)
                 | (ESCRIBIR if sucesos & selectors.EVENT_WRITE else 0))
                for clave, sucesos in self._selector.select(segundos)[:maximo]]
