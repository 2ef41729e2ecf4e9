"""El editor de la línea que se escribe: teclas → texto → fila. Sin terminal."""

import random

import pytest

from editor import Editor, anchura

ARRIBA, ABAJO, DERECHA, IZQUIERDA, INICIO, FIN, SUPR = '\x1b[A', '\x1b[B', '\x1b[C', '\x1b[D', '\x1b[H', '\x1b[F', '\x1b[3~'


def teclear(texto, editor=None):
    editor = editor or Editor()
    lineas = list(editor.teclear(texto.encode()))
    return editor, lineas


@pytest.mark.parametrize('teclas, texto, cursor', [
    ('hola', 'hola', 4),
    ('hola' + IZQUIERDA * 2 + 'X', 'hoXla', 3),
    ('hola' + INICIO + '¡', '¡hola', 1),
    ('hola' + INICIO + FIN + '!', 'hola!', 5),
    ('hola\x7f\x7f', 'ho', 2),
    ('hola' + INICIO + SUPR, 'ola', 0),
    ('hola\x01\x04', 'ola', 0),
    ('una dos\x17', 'una ', 4),
    ('una dos\x17\x19\x19', 'una dosdos', 10),
    ('una dos\x01\x0b', '', 0),
    ('una dos' + IZQUIERDA + '\x15', 's', 0),
    ('una dos tres\x1bb\x1bbX', 'una Xdos tres', 5),
    ('una dos\x01\x1bfX', 'unaX dos', 4),
    ('una dos\x1b[1;5DX', 'una Xdos', 5),
    ('e\u0301\x7f', '', 0),                 # un acento combinado se borra con su letra
    ('漢字' + IZQUIERDA + 'a', '漢a字', 2),
    ('buffer b f', 'buffer b f', 10),       # las letras de Alt+b y Alt+f también son letras
    ('a\x00\x1b[99;99Rb', 'ab', 2),         # lo que no es una orden conocida no deja basura
    (DERECHA + SUPR + '\x7f' + ABAJO + ARRIBA + 'a', 'a', 1),
])
def test_la_linea_se_edita_como_en_cualquier_terminal(teclas, texto, cursor):
    editor, lineas = teclear(teclas)
    assert (editor.texto, editor.cursor, lineas) == (texto, cursor, [])


def test_las_teclas_pueden_llegar_byte_a_byte():
    editor = Editor()
    for byte in ('ñ漢😀' + IZQUIERDA + 'x').encode():
        assert not list(editor.teclear(bytes([byte])))
    assert editor.texto == 'ñ漢x😀'


def test_la_historia_vuelve_con_las_flechas_y_lo_empezado_no_se_pierde():
    editor, lineas = teclear('uno\ndos\nuno y med')
    assert lineas == ['uno', 'dos']
    assert teclear(ARRIBA, editor)[0].texto == 'dos'
    assert teclear(ARRIBA * 3, editor)[0].texto == 'uno'
    assert teclear(ABAJO * 5, editor)[0].texto == 'uno y med'


def test_ctrl_d_en_una_linea_vacia_es_el_final():
    assert teclear('\x04')[1] == [None]
    assert teclear('ab\x04')[1] == []


def test_un_pegado_con_tabuladores_no_completa_y_cada_linea_se_envia():
    editor = Editor(lambda comienzo: ['¡no!'])
    assert teclear('\x1b[200~\tuna\n\tdos\n\x1b[201~', editor)[1] == [' una', ' dos']


def test_tab_recorre_las_opciones():
    editor = Editor(lambda comienzo: ['ana: ', 'anselmo: '])
    assert [teclear(teclas, editor)[0].texto for teclas in ('an\t', '\t', '\t', 'hola')] == \
        ['ana: ', 'anselmo: ', 'ana: ', 'ana: hola']


def test_la_fila_cabe_siempre_y_el_cursor_cae_donde_debe():
    azar = random.Random(4)
    for _ in range(2000):
        editor = Editor()
        editor.poner(''.join(azar.choice('aáñ漢😀e\u0301 ') for _ in range(azar.randrange(120))))
        editor.cursor = azar.randrange(len(editor.texto) + 1)
        ancho = azar.randrange(6, 100)
        fila, columna = editor.fila('[ana] ', ancho)
        assert anchura(fila) < ancho
        assert 0 <= columna < ancho
        antes = fila
        while anchura(antes) > columna:
            antes = antes[:-1]
        assert anchura(antes) == columna   # el cursor no parte un carácter ancho
