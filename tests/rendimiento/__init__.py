"""La medida de rendimiento: `python -m tests.rendimiento`, contra servidores de verdad y comprobando cada entrega."""
