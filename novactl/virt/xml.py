"""Small helpers over ElementTree, so that builders read like the XML they make."""

from xml.etree.ElementTree import Element, indent, tostring


def el(tag: str, *children: Element | None, text: object = None, **attributes: object) -> Element:
    """<tag attributes>text, children</tag>; None children and attributes are left out, and a trailing
    underscore of an attribute's name (a Python keyword) is dropped."""
    element = Element(tag, {k.rstrip("_"): str(v) for k, v in attributes.items() if v is not None})
    element.text = None if text is None else str(text)
    element.extend(child for child in children if child is not None)
    return element


def render(element: Element) -> str:
    """Indented text; escaping is ElementTree's."""
    indent(element)
    return tostring(element, encoding="unicode") + "\n"
