"""S2 over MQTT 5, the binding of docs/s2-over-mqtt.md: cores without I/O, and paho-mqtt around them."""
