"""Custom data: read in their formats, and written as COCO jsons.

- `formats`: readers of YOLO, Pascal VOC and labelme
- `sources`: what `FORMAT:PATH` names, and COCO jsons made of it
- `splits`: one dataset as training and validation data
"""
