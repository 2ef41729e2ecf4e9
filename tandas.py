"""De muchas entradas de la sala a un solo envío por cliente: sin sockets ni hilos.

Una `Tanda` junta lo que se dijo desde el turno anterior. Lo que ven todos es un solo bloque de bytes; quien se aparta de
eso (no recibe lo suyo, entra a mitad, tiene un privado) tiene una `_Vista`: qué trechos del bloque ve y qué va entre
ellos.
"""

import itertools
from typing import Any, NamedTuple

from protocolo import Lineas
from sala import CORTE, ENTRA, VUELTA


class Paso(NamedTuple):
    """Una entrada de la tanda con la que a su destino le pasa algo, y en qué punto."""

    entrada: Any
    numero: int     # el de la última línea anterior
    vistas: int     # cuántas líneas de la tanda ve su destino hasta ahí


class Tanda:
    """Entradas que se reparten juntas: lo que ve todo el mundo, y lo que ve cada uno que se aparta de eso.

    Se apartan los autores (no reciben lo suyo), los destinos de algo solo para ellos, y quien entra o sale a mitad.
    Se cuentan dos cosas: las líneas comunes, para decir cuántas se pierde alguien, y todas, para numerarlas.
    """

    __slots__ = ('numero', 'linea', 'lineas', 'primera', 'siguiente', 'peso', 'vistas', 'pasos', '_inicios', '_formas')

    PESO_OBJETO = 500       # bytes: los objetos que acompañan a un texto corto pesan más que él

    def __init__(self, entradas, numero=0, linea=0, primera=1):
        self.numero = numero                    # su puesto entre las tandas
        self.linea, self.lineas = linea, 0      # cuántas líneas comunes hubo antes, y cuántas tiene
        self.primera = primera                  # el número de su primera línea
        self.vistas, self.pasos, self._formas = {}, [], {}
        self.peso = self.PESO_OBJETO            # bytes que ocupa, más o menos
        self._inicios = []                      # de cada entrada común, el número de su primera línea
        comunes = []
        for entrada in entradas:
            if entrada.destino is None:
                comunes.append(entrada.datos)
                self._inicios.append(primera)
                antes, self.lineas = self.lineas, self.lineas + entrada.lineas
                if entrada.autor is not None:
                    vista = self._vista(entrada.autor)
                    vista.ver_hasta(len(comunes) - 1, antes)
                    vista.saltar_hasta(len(comunes), self.lineas)
            else:
                vista = self._vista(entrada.destino)
                vista.ver_hasta(len(comunes), self.lineas)
                if entrada.paso:
                    self.pasos.append(Paso(entrada, primera - 1, vista.lineas))
                if entrada.paso not in (CORTE, VUELTA):     # esas no son para leerlas
                    vista.intercalar(entrada, primera)
                    self.peso += self.PESO_OBJETO + len(entrada.datos)
            primera += entrada.lineas
        self.siguiente = primera                # el número de la primera línea de la tanda que sigue
        for vista in self.vistas.values():
            vista.ver_hasta(len(comunes), self.lineas)
        self.peso += self.PESO_OBJETO * len(self.vistas)
        self._dar_forma(Lineas, comunes)

    def _vista(self, cliente):
        vista = self.vistas.get(cliente)
        if vista is None:
            vista = self.vistas[cliente] = _Vista(cliente.dentro)
        return vista

    def _dar_forma(self, marco, piezas):
        datos, limites = b''.join(piezas), [0, *itertools.accumulate(map(len, piezas))]
        self._formas[marco.codificar] = datos, limites
        self.peso += len(datos) + 32 * len(limites)
        return datos, limites

    def _en(self, marco):
        """Lo común tal como lo escribe `marco`, y dónde empieza y acaba cada entrada."""
        datos, limites = self._formas[Lineas.codificar]
        piezas = [marco.codificar(datos[desde:hasta], inicio)
                  for desde, hasta, inicio in zip(limites, limites[1:], self._inicios)]
        return self._dar_forma(marco, piezas)

    def para(self, cliente):
        """Los bytes de esta tanda que recibe `cliente`, si está en la sala o la tanda va en parte para él."""
        marco, vista = cliente.marco, self.vistas.get(cliente)
        forma = self._formas.get(marco.codificar) or self._en(marco)
        return forma[0] if vista is None else vista.juntar(marco, *forma)

    def lineas_para(self, cliente):
        """Cuántas líneas son."""
        vista = self.vistas.get(cliente)
        return self.lineas if vista is None else vista.lineas


class _Vista:
    """Lo que un cliente ve de una tanda: trechos de lo común y, entre ellos, entradas solo para él."""

    __slots__ = ('dentro', 'lineas', '_trozos', '_puesto', '_linea')

    def __init__(self, dentro):
        self.dentro = dentro
        self.lineas = self._puesto = self._linea = 0
        self._trozos = []       # (primera entrada común, primera que no), o (datos, número de su primera línea)

    def ver_hasta(self, puesto, linea):
        if self.dentro and puesto > self._puesto:
            self._trozos.append((self._puesto, puesto))
            self.lineas += linea - self._linea
        self.saltar_hasta(puesto, linea)

    def saltar_hasta(self, puesto, linea):
        self._puesto, self._linea = puesto, linea

    def intercalar(self, entrada, numero):
        self._trozos.append((entrada.datos, numero if entrada.lineas else 0))
        self.lineas += entrada.lineas
        if entrada.paso:
            self.dentro = entrada.paso == ENTRA

    def juntar(self, marco, datos, limites):
        comun = memoryview(datos)
        return b''.join([comun[limites[uno]:limites[otro]] if isinstance(uno, int)
                         else marco.codificar(uno, otro) if otro else uno       # sin número: lo que no es una línea
                         for uno, otro in self._trozos])
