"""The playground: a local web page that shows what a model keeps of an image or of a long text.

`carve` and `read` hold the logic and know no browser; `page` and `serve` are the only files that
import Gradio.
"""
