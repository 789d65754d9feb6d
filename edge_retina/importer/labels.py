"""Label names of the data sets whose published models leave them out of the graph."""

from __future__ import annotations

__all__ = ["COCO_80", "COCO_91", "OPEN_IMAGES_264", "names_for"]

# COCO's category ids 0 to 90; "N/A" where COCO has no such id. Source: torchvision models/_meta.py.
# fmt: off
COCO_91 = (
    "__background__", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "N/A", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse",
    "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "N/A", "backpack", "umbrella", "N/A",
    "N/A", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat",
    "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle", "N/A", "wine glass", "cup", "fork", "knife",
    "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza",
    "donut", "cake", "chair", "couch", "potted plant", "bed", "N/A", "dining table", "N/A", "N/A",
    "toilet", "N/A", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "N/A", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)

# The classes of MLPerf's detection benchmark, in order. Source: mlcommons/training, download_openimages_mlperf.sh.
OPEN_IMAGES_264 = (
    "Airplane", "Antelope", "Apple", "Backpack", "Balloon", "Banana", "Barrel", "Baseball bat", "Baseball glove", "Bee",
    "Beer", "Bench", "Bicycle", "Bicycle helmet", "Bicycle wheel", "Billboard", "Book", "Bookcase", "Boot", "Bottle",
    "Bowl", "Bowling equipment", "Box", "Boy", "Brassiere", "Bread", "Broccoli", "Bronze sculpture", "Bull", "Bus",
    "Bust", "Butterfly", "Cabinetry", "Cake", "Camel", "Camera", "Candle", "Candy", "Cannon", "Canoe", "Carrot", "Cart",
    "Castle", "Cat", "Cattle", "Cello", "Chair", "Cheese", "Chest of drawers", "Chicken", "Christmas tree", "Coat",
    "Cocktail", "Coffee", "Coffee cup", "Coffee table", "Coin", "Common sunflower", "Computer keyboard",
    "Computer monitor", "Convenience store", "Cookie", "Countertop", "Cowboy hat", "Crab", "Crocodile", "Cucumber",
    "Cupboard", "Curtain", "Deer", "Desk", "Dinosaur", "Dog", "Doll", "Dolphin", "Door", "Dragonfly", "Drawer", "Dress",
    "Drum", "Duck", "Eagle", "Earrings", "Egg (Food)", "Elephant", "Falcon", "Fedora", "Flag", "Flowerpot", "Football",
    "Football helmet", "Fork", "Fountain", "French fries", "French horn", "Frog", "Giraffe", "Girl", "Glasses", "Goat",
    "Goggles", "Goldfish", "Gondola", "Goose", "Grape", "Grapefruit", "Guitar", "Hamburger", "Handbag", "Harbor seal",
    "Headphones", "Helicopter", "High heels", "Hiking equipment", "Horse", "House", "Houseplant", "Human arm",
    "Human beard", "Human body", "Human ear", "Human eye", "Human face", "Human foot", "Human hair", "Human hand",
    "Human head", "Human leg", "Human mouth", "Human nose", "Ice cream", "Jacket", "Jeans", "Jellyfish", "Juice",
    "Kitchen & dining room table", "Kite", "Lamp", "Lantern", "Laptop", "Lavender (Plant)", "Lemon", "Light bulb",
    "Lighthouse", "Lily", "Lion", "Lipstick", "Lizard", "Man", "Maple", "Microphone", "Mirror", "Mixing bowl",
    "Mobile phone", "Monkey", "Motorcycle", "Muffin", "Mug", "Mule", "Mushroom", "Musical keyboard", "Necklace",
    "Nightstand", "Office building", "Orange", "Owl", "Oyster", "Paddle", "Palm tree", "Parachute", "Parrot", "Pen",
    "Penguin", "Personal flotation device", "Piano", "Picture frame", "Pig", "Pillow", "Pizza", "Plate", "Platter",
    "Porch", "Poster", "Pumpkin", "Rabbit", "Rifle", "Roller skates", "Rose", "Salad", "Sandal", "Saucer", "Saxophone",
    "Scarf", "Sea lion", "Sea turtle", "Sheep", "Shelf", "Shirt", "Shorts", "Shrimp", "Sink", "Skateboard", "Ski",
    "Skull", "Skyscraper", "Snake", "Sock", "Sofa bed", "Sparrow", "Spider", "Spoon", "Sports uniform", "Squirrel",
    "Stairs", "Stool", "Strawberry", "Street light", "Studio couch", "Suit", "Sun hat", "Sunglasses", "Surfboard",
    "Sushi", "Swan", "Swimming pool", "Swimwear", "Tank", "Tap", "Taxi", "Tea", "Teddy bear", "Television", "Tent",
    "Tie", "Tiger", "Tin can", "Tire", "Toilet", "Tomato", "Tortoise", "Tower", "Traffic light", "Train", "Tripod",
    "Truck", "Trumpet", "Umbrella", "Van", "Vase", "Vehicle registration plate", "Violin", "Wall clock",
    "Waste container", "Watch", "Whale", "Wheel", "Wheelchair", "Whiteboard", "Window", "Wine", "Wine glass", "Woman",
    "Zebra", "Zucchini",
)
# fmt: on
# The categories that COCO has, in its order.
COCO_80 = tuple(name for name in COCO_91[1:] if name != "N/A")


def names_for(classes: int) -> tuple[str, ...]:
    """COCO's names for 80 and 91 classes, else class_0, class_1, ..."""
    known = {len(names): names for names in (COCO_80, COCO_91)}
    return known.get(classes, tuple(f"class_{index}" for index in range(classes)))
