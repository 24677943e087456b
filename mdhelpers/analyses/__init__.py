"""What else datamodels tell: Appendix F, removal, selection, predictions, reweighting."""
