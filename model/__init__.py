"""The networks and samplers of daVinci-MagiHuman: torch only, no Ray, no storage, no pydantic."""
